"""Eight bits: calibrated with images of the user's, with what they cost on others."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import foveate
from foveate.data.pixels.decode import Raw
from foveate.deploy.images import Labelled, Preparation, calibration_images
from foveate.deploy.request import Request
from tests.data.folders import make_folder
from tests.deploy.networks import Network

PREPARE = Preparation(Request((8, 12)), (0.5, 0.5, 0.5), (0.5, 0.25, 1.0))


def test_an_image_fills_the_size_and_its_middle_is_cut_out():
    pixels = np.zeros((16, 60, 3), np.uint8)
    pixels[:, 18:42] = 255  # the middle 24 columns, which become the 12 of the input
    x = PREPARE(Raw(Image.fromarray(pixels), pixels.size // 3))
    assert x.shape == (1, 3, 8, 12)
    torch.testing.assert_close(x[0, :, 4, 6], torch.tensor([1.0, 2.0, 0.5]))
    assert x[0, 0].mean() > 0.9


def test_images_to_calibrate_with(tmp_path):
    make_folder(tmp_path / "set", {"a": 3, "b": 2})
    (tmp_path / "set" / "a" / "broken.png").write_bytes(b"none")
    images, broken = calibration_images(tmp_path / "set", PREPARE)
    assert len(images) == 5
    assert broken == ["a/broken.png"]
    with pytest.raises(ValueError, match="no folder of images"):
        calibration_images(tmp_path / "other", PREPARE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image that can be read"):
        calibration_images(tmp_path / "empty", PREPARE)


def test_classes_are_the_models_by_name(tmp_path):
    make_folder(tmp_path / "set", {"a": 2, "b": 2})
    asked = Labelled(str(tmp_path / "set"), PREPARE, ["b", "other", "a"])
    ((_, labels),) = asked.batches()
    assert labels.tolist() == [2, 2, 0, 0]

    def says(label):
        return lambda images: torch.eye(3)[[label] * len(images)]

    assert asked.accuracies(says(2), says(1)) == (0.5, 0.0, 4)
    with pytest.raises(ValueError, match="does not know 'b'"):
        Labelled(str(tmp_path / "set"), PREPARE, ["a", "c"])


def test_onnx_in_eight_bits(tmp_path):
    make_folder(tmp_path / "set", {"a": 6, "b": 6})
    model = Network(dim=16).eval()
    options = {
        "int8": tmp_path / "set",
        "evaluate": tmp_path / "set",
        "metadata": {"classes": list("abcde")},
    }
    with pytest.raises(ValueError, match="has 2 classes, and the model 5"):
        foveate.export(model, tmp_path / "a.onnx", size=32, **{**options, "metadata": None})
    result = foveate.export(model, tmp_path / "a.onnx", size=32, dynamic=(), **options)
    assert result.precision == "int8"
    assert result.accuracy is not None
    assert result.accuracy.images == 12
    assert result.difference is not None
    assert 0 < result.difference < 0.2
    graph = onnx.load(result.path).graph
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    rounding = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    constants = {each.name: each for each in graph.initializer}
    for node in rounding:  # scales are where runtimes look for them
        assert node.input[1] in constants
    for each in constants.values():
        large = math.prod(each.dims) >= 256
        assert not (large and each.data_type == onnx.TensorProto.FLOAT), each.name
    words = {each.key: each.value for each in onnx.load(result.path).metadata_props}
    assert json.loads(words["foveate.accuracy"])["images"] == 12
    assert any("calibrated with 12 images" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["squeeze_excitation", "neighborhood"])
def test_executorch_in_eight_bits(attention, tmp_path):
    pytest.importorskip("executorch.exir")
    make_folder(tmp_path / "set", {"a": 6, "b": 6})
    model = Network(attention, dim=16).eval()
    result = foveate.export(model, tmp_path / "a.pte", size=32, int8=tmp_path / "set")
    assert result.difference is not None
    assert 0 < result.difference < 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"half": True, "int8": "x"}, "two precisions"),
        ({"evaluate": "x"}, "give int8 as well"),
        ({"int8": "x", "dynamic": ("height",)}, "calibrated at one size"),
        ({"int8": "x", "to": "openvino"}, "ONNX and ExecuTorch can be"),
    ],
)
def test_what_eight_bits_do_not_go_with(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        foveate.export(Network(), tmp_path / "model", **{"to": "onnx", **options})
