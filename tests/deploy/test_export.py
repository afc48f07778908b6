"""Files for other runtimes: right, or not there."""

from __future__ import annotations

import errno
import json
import os
from typing import NamedTuple

import onnx
import pytest
import timm
import torch
from torch import nn

import foveate
from foveate.deploy.program import ExportError, names_of, tensors_of
from tests.deploy.networks import Network, Odd, Shifted

onnxruntime = pytest.importorskip("onnxruntime")


def run(path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"images": x.numpy()})
    return torch.from_numpy(given)


def test_a_file_with_free_axes_computes_what_the_model_does(tmp_path):
    model = Network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = foveate.export(
        model,
        tmp_path / "model.onnx",
        size=(32, 40),
        dynamic=("batch", "height", "width"),
        metadata={"classes": ["a", "b", "c", "d", "é"]},
    )
    assert result.difference is not None
    assert result.difference < 1e-5
    assert len(result.sizes) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert result.bytes == pytest.approx(result.path.stat().st_size, rel=0.3)
    x = torch.randn(2, 3, 48, 36)
    with torch.no_grad():
        torch.testing.assert_close(run(result.path, x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    assert b".py" not in result.path.read_bytes()  # nothing of where it was made

    words = {each.key: each.value for each in onnx.load(result.path).metadata_props}
    assert float(words["foveate.difference"]) == result.difference
    assert json.loads(words["foveate.classes"])[4] == "é"
    assert words["foveate.images"] == "batch x height x width"
    (images,) = onnx.load(result.path).graph.input
    assert [each.dim_param for each in images.type.tensor_type.shape.dim] == [
        "batch", "", "height", "width",
    ]  # fmt: skip
    assert "largest relative difference" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["difference"] == result.difference


def test_half_the_bytes(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 64, 8, 8), nn.ReLU(), nn.Conv2d(64, 64, 3))
    whole = foveate.export(model, tmp_path / "a.onnx", size=32, dynamic=())
    half = foveate.export(model, tmp_path / "b.onnx", size=32, dynamic=(), half=True)
    assert half.bytes < 0.6 * whole.bytes
    assert half.precision == "float16"
    assert half.difference is not None
    assert 1e-6 < half.difference < 2e-2


def test_a_file_that_computes_something_else_is_not_kept_and_the_module_named(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Shifted()), nn.Flatten())
    with pytest.raises(ExportError, match=r"1\.1 \(Shifted\) is the first module"):
        foveate.export(model, tmp_path / "model.onnx", size=8, dynamic=())
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_the_format_lacks_is_named_with_its_module(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Odd()))
    with pytest.raises(ExportError, match=r"ONNX has no operator foveate_test\.odd.* which 1\.0"):
        foveate.export(model, tmp_path / "model.onnx", size=8, dynamic=())
    assert list(tmp_path.iterdir()) == []


class _Multiples(nn.Module):
    def forward(self, x):
        if x.shape[2] % 32:
            raise ValueError("height must be a multiple of 32")
        return x


def test_sizes_that_the_model_refuses(tmp_path):
    with pytest.raises(ExportError, match="refuses images of 1x30x32: height must be a multiple"):
        foveate.export(_Multiples(), tmp_path / "model.onnx", size=(30, 32))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'foveate\[openvino\]'"):
        foveate.export(Network(), tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("", {"to": "onnx"}, "is a folder; name a file"),
        ("model.zip", {}, "does not say a format by its suffix"),
        ("model.onnx", {"to": "onxx"}, "did you mean 'onnx'"),
        ("model.onnx", {"to": "openvino"}, "is the name of a file of ONNX"),
        ("model.pte", {"dynamic": ("batch",)}, "leave that out and export a file a size"),
        ("model.tflite", {"half": True}, "LiteRT is not written in float16"),
        ("model.onnx", {"size": (0, 8)}, "at least 1"),
        ("model.onnx", {"dynamic": ("depth",)}, "dynamic takes batch, height, width"),
    ],
)
def test_what_cannot_be_asked_for(path, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        foveate.export(Network(), tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"model\.onnx") as caught:
        foveate.export(nn.Conv2d(3, 4, 3), tmp_path / "model.onnx", size=8, dynamic=())
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


class Pair(NamedTuple):
    first: list[torch.Tensor]
    second: torch.Tensor


def test_outputs_are_named_by_where_they_stood():
    a, b, c = torch.zeros(3, 1)
    value = {"out": a, "levels": [b, c]}
    assert names_of(value) == ["out", "levels_0", "levels_1"]
    assert names_of((a, b)) == ["output_0", "output_1"]
    assert names_of(Pair([a], b)) == ["first_0", "second"]
    assert len(tensors_of(value)) == 3
    with pytest.raises(ExportError, match="the model gives int"):
        tensors_of((a, 1))


class Branching(nn.Module):
    """Takes other steps for large batches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if x.shape[0] > 8 else 1)


def test_lengths_that_were_not_recorded_are_said(tmp_path):
    result = foveate.export(Branching(), tmp_path / "m.onnx", size=8, dynamic=("batch",))
    assert any("batch may be at most 8" in note for note in result.notes)
    words = {each.key: each.value for each in onnx.load(result.path).metadata_props}
    assert "at most 8" in words["foveate.notes"]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"difference": "0"}, "what a file's check says"), ({"x": object()}, "no plain value")],
)
def test_words_of_the_users_replace_none_of_the_check(metadata, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        foveate.export(nn.Conv2d(3, 4, 3), tmp_path / "m.onnx", size=8, metadata=metadata)


def test_what_was_chosen_for_the_user_is_said(tmp_path):
    model = timm.create_model("test_resnet", in_chans=1, num_classes=3).to(torch.bfloat16)
    result = foveate.export(model, tmp_path / "m.onnx", size=32, dynamic=())
    assert any("weights in bfloat16 were brought to float32" in note for note in result.notes)
    assert any("how 3 channels are normalised and reads 1" in note for note in result.notes)
    words = {each.key: each.value for each in onnx.load(result.path).metadata_props}
    assert json.loads(words["foveate.mean"]) == [0.5]


def test_a_model_that_never_gives_the_same_is_named_so(tmp_path):
    class Restless(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x, 0.5)

    with pytest.raises(ExportError, match="other numbers each time"):
        foveate.export(Restless(), tmp_path / "m.onnx", size=8)
