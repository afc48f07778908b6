"""Segmenters, written whole, and detectors, as far as their heads go."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

import foveate
from foveate.deploy.export import FORMATS
from foveate.models import create_detector, create_segmenter, list_detectors, list_segmenters
from foveate.saved.info import Architecture
from foveate.saved.rebuild import rebuild
from tests.models.test_detector import NARROW as DETECTORS
from tests.models.test_segmenter import NARROW as SEGMENTERS
from tests.saved.test_info import DETECTOR, SEGMENTER

onnxruntime = pytest.importorskip("onnxruntime")
BACKBONE = "test_resnet"
"""Timm's smallest: heads are what is tried here."""
FREE = ("batch", "height", "width")


def segmenter(head: str) -> nn.Module:
    return lively(create_segmenter(head, BACKBONE, 5, head_options=SEGMENTERS[head]))


def detector(name: str) -> nn.Module:
    return lively(create_detector(name, BACKBONE, 5, head_options=DETECTORS[name]))


def lively(model: nn.Module) -> nn.Module:
    """With norms that have seen other images than normal ones."""
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval()


def words(path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_a_segmenter_gives_logits_at_the_size_of_the_images(tmp_path):
    result = foveate.export(segmenter("psp"), tmp_path / "model.onnx", size=(48, 64))
    assert result.difference < 1e-5
    session = onnxruntime.InferenceSession(result.path)
    (logits,) = session.run(None, {"images": torch.randn(3, 3, 48, 64).numpy()})
    assert logits.shape == (3, 5, 48, 64)


def test_a_detector_gives_what_its_head_says_of_every_anchor(tmp_path):
    model = detector("retinanet")
    result = foveate.export(model, tmp_path / "model.onnx", size=(64, 64))
    assert result.difference < 1e-5
    assert "without the postprocessing" in result.notes[0]
    session = onnxruntime.InferenceSession(result.path)
    names = [each.name for each in session.get_outputs()]
    assert names == [f"{part}_{level}" for part in ("logits", "offsets") for level in range(5)]
    anchors = json.loads(words(result.path)["foveate.anchors"])
    assert anchors["strides"] == [8, 16, 32, 64, 128]
    assert len(anchors["scales"]) * len(anchors["ratios"]) == model.bbox_head.anchors.per_cell


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "executorch"])
@pytest.mark.parametrize("head", [*list_segmenters(), *list_detectors()])
def test_every_head_in_every_format(head, name, tmp_path):
    format_ = FORMATS[name]
    for package in format_.packages:
        pytest.importorskip(package)
    model = segmenter(head) if head in SEGMENTERS else detector(head)
    path = tmp_path / f"model{format_.suffix}"
    dynamic = FREE if format_.free else ()
    result = foveate.export(model, path, size=(64, 96), dynamic=dynamic)
    assert result.difference < 1e-5
    assert len(result.sizes) == (6 if dynamic else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("info", "head", "options", "said"),
    [
        (SEGMENTER, "fcn", SEGMENTERS["fcn"], "images are to be cut into pieces of 48x64"),
        (DETECTOR, "retinanet", DETECTORS["retinanet"], "images are to be fitted into 48x64"),
    ],
    ids=["segmenter", "detector"],
)
def test_a_trained_file_is_exported_with_what_its_use_needs(info, head, options, said, tmp_path):
    built = Architecture(info.architecture.kind, BACKBONE, {}, head, options)
    info = replace(info, architecture=built, input=replace(info.input, size=(48, 64)))
    model = lively(rebuild(built, len(info.classes)))
    fixed = foveate.export(model, tmp_path / "fixed.onnx", info=info)
    assert any(said in note for note in fixed.notes)
    kept = words(fixed.path)
    assert json.loads(kept["foveate.classes"]) == list(info.classes)
    assert (kept["foveate.head"], kept["foveate.fit"]) == (head, info.input.fit)
    free = foveate.export(model, tmp_path / "free.onnx", info=info, dynamic=FREE)
    assert not any("many sizes" in note for note in free.notes)
