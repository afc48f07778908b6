"""What a file says of its model: it reads back, and what is damaged is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from foveate.data.annotations.record import Category
from foveate.data.pixels.decode import ValueRange
from foveate.saved.info import Architecture, ImageInput, ModelInfo
from foveate.surgery._weights_file import DamagedFileError

CLASSIFIER = ModelInfo(
    task="classification",
    architecture=Architecture("classifier", "resnet18", {"in_chans": 1}, imports=("mine.py",)),
    classes=("cat", "<dog>"),
    input=ImageInput(1, (32, 40), "crop", (0.5,), (0.25,), (40, 50)),
    metrics={"accuracy": 0.5, "balanced_accuracy": math.nan},
)
SEGMENTER = ModelInfo(
    task="segmentation",
    architecture=Architecture(
        "segmenter", "resnet18", {}, "upernet", {"dim": 16}, {"auxiliary": False}, plain=True
    ),
    classes=("road", "sky"),
    input=ImageInput(
        3, (64, 64), "keep", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0),
        ranges={"16-bit": ValueRange(0.0, 4095.0)}, window=(32, 32),
    ),
    ignored=11,
    colors=((0, 0, 0), (255, 1, 2)),
)  # fmt: skip
DETECTOR = ModelInfo(
    task="detection",
    architecture=Architecture("detector", "resnet18", {}, "retinanet", {"dim": 16}),
    classes=("cell", "plate"),
    input=ImageInput(3, (64, 64), "inside", (0.0,) * 3, (1.0,) * 3, (80, 80)),
    categories=(Category(3, "cell"), Category(90, "plate")),
)


@pytest.mark.parametrize("info", [CLASSIFIER, SEGMENTER, DETECTOR], ids=lambda info: info.task)
def test_it_reads_back(info):
    found = ModelInfo.from_json(info.to_json(), "m")
    if info is CLASSIFIER:
        assert math.isnan(found.metrics["balanced_accuracy"])
        found, info = replace(found, metrics={}), replace(info, metrics={})
    assert found == info
    assert "NaN" not in CLASSIFIER.to_json()


def changed(info: ModelInfo, path: str, value: Any) -> str:
    """The JSON with another value at a dotted path; None removes the key."""
    values = json.loads(info.to_json())
    *outer, key = path.split(".")
    inside = values
    for name in outer:
        inside = inside[name]
    inside[key] = value
    if value is None:
        del inside[key]
    return json.dumps(values)


@pytest.mark.parametrize(
    ("info", "path", "value", "message"),
    [
        (CLASSIFIER, "classes", None, "'classes' is missing"),
        (CLASSIFIER, "classes", ["a", 1], r"classes is \['a', 1\], where a list of texts"),
        (CLASSIFIER, "classes", [], "classes is empty"),
        (CLASSIFIER, "task", "pose", "task is 'pose', where classification or"),
        (CLASSIFIER, "architecture.kind", "pickle", "kind is 'pickle'"),
        (CLASSIFIER, "architecture.backbone_options", {"checkpoint_path": "x"}, "another file"),
        (CLASSIFIER, "architecture.backbone_options", {"pretrained": True}, "another file"),
        (CLASSIFIER, "architecture.options", {"eval": "x"}, "options has 'eval'"),
        (CLASSIFIER, "input", [1], "input is"),
        (CLASSIFIER, "input.channels", 2, "channels is 2"),
        (CLASSIFIER, "input.size", [32, -1], "two positive whole numbers"),
        (CLASSIFIER, "input.std", [0.0], "mean and std"),
        (CLASSIFIER, "input.std", [0.1, 0.2], "1 finite numbers"),
        (SEGMENTER, "colors", [[0, 0, 0]], "colors is not three"),
        (SEGMENTER, "input.ranges", {"16-bit": [1]}, "2 finite numbers"),
        (DETECTOR, "categories", [{"id": 3, "name": "cell"}], "one id for each of 2"),
        (DETECTOR, "architecture.head", 3, "head is 3, where text"),
    ],
)
def test_what_is_damaged_is_named_with_its_file(info, path, value, message):
    with pytest.raises(DamagedFileError, match=f"a/model.safetensors is damaged.*{message}"):
        ModelInfo.from_json(changed(info, path, value), "a/model.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "null", '{"format": "1"}'])
def test_what_is_no_description_is_damaged(text):
    with pytest.raises(DamagedFileError, match="m is damaged"):
        ModelInfo.from_json(text, "m")


def test_a_later_format_is_refused():
    with pytest.raises(ValueError, match=r"m was written by a later Foveate \(format 9"):
        ModelInfo.from_json(changed(CLASSIFIER, "format", 9), "m")


def test_options_that_read_other_weights_are_not_kept():
    built = Architecture("classifier", "resnet18", {"pretrained": True, "in_chans": 1})
    found = ModelInfo.from_json(replace(CLASSIFIER, architecture=built).to_json(), "m")
    assert found.architecture.backbone_options == {"in_chans": 1}


def test_an_option_that_no_file_holds_is_named():
    built = Architecture("classifier", "resnet18", {"norm_layer": object})
    with pytest.raises(TypeError, match="norm_layer"):
        replace(CLASSIFIER, architecture=built).to_json()
