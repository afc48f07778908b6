"""The formats beside ONNX, each where its packages are installed."""

from __future__ import annotations

import errno
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

import foveate
from foveate.deploy.export import FORMATS
from foveate.deploy.program import ExportError
from tests.deploy.networks import Network, Odd

SLIDE = "slide"


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_openvino(half, tmp_path):
    openvino = pytest.importorskip("openvino")
    model = Network(SLIDE).eval()
    result = foveate.export(
        model,
        tmp_path / "model.xml",
        size=(32, 48),
        dynamic=("batch", "height", "width"),
        half=half,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert result.difference is not None
    assert result.difference < (2e-2 if half else 1e-5)
    assert any("default precision" in note for note in result.notes)
    read = openvino.Core().read_model(result.path)
    assert float(read.get_rt_info(["foveate", "difference"]).value) == result.difference


def test_sizes_that_are_not_free_are_fixed_in_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = torch.nn.Conv2d(3, 4, 3).eval()
    for dynamic, shape in (((), "[1,3,8,9]"), (("batch",), "[?,3,8,9]")):
        result = foveate.export(model, tmp_path / "model.xml", size=(8, 9), dynamic=dynamic)
        read = openvino.Core().read_model(result.path)
        assert str(read.inputs[0].partial_shape) == shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [("executorch", "executorch.exir"), ("litert", "litert_torch"), ("coreml", "coremltools")],
)
def test_formats_of_fixed_sizes(name, package, tmp_path):
    pytest.importorskip(package)
    format_ = FORMATS[name]
    path = tmp_path / f"model{format_.suffix}"
    result = foveate.export(Network(SLIDE), path, size=(32, 48))
    assert result.path == path
    assert path.exists()
    assert result.shape == "1 x 32 x 48"
    if not format_.runs_here:
        assert result.difference is None
        return
    assert result.difference is not None
    assert result.difference < 1e-5
    words = json.loads(path.with_name(path.name + ".json").read_text())
    assert json.loads(words["foveate.difference"]) == result.difference
    again = foveate.export(Network(SLIDE), path, size=(32, 48))  # takes the old one's place
    assert again.difference is not None


@pytest.mark.slow
def test_an_mlpackage_takes_the_place_of_another(tmp_path):
    pytest.importorskip("coremltools")
    path = tmp_path / "model.mlpackage"
    for _ in range(2):
        foveate.export(torch.nn.Conv2d(3, 4, 3), path, size=16)
    assert [each.name for each in tmp_path.iterdir()] == ["model.mlpackage"]
    (tmp_path / "other.mlpackage").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        foveate.export(torch.nn.Conv2d(3, 4, 3), tmp_path / "other.mlpackage", size=16)


@pytest.fixture(params=FORMATS)
def format_(request):
    """Each format whose packages are installed."""
    found = FORMATS[request.param]
    for package in found.packages:
        pytest.importorskip(package)
    return found


@pytest.mark.slow
def test_an_operator_that_a_format_lacks_is_named_with_its_module(format_, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(Odd()))
    said = rf"{format_.title} has no operator .*\bodd\b.*, which 1\.0 uses"
    with pytest.raises(ExportError, match=said):
        foveate.export(model, tmp_path / f"model{format_.suffix}", size=8, dynamic=())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_in_the_words_of_a_writer(format_, tmp_path, monkeypatch):
    """Some writers take away what they wrote, so that there is space again."""

    def write(deployment, path):
        path.write_bytes(b"half")
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(format_, "write", write)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**17))
    path = tmp_path / f"model{format_.suffix}"
    with pytest.raises(OSError, match="No space left") as caught:
        foveate.export(torch.nn.Conv2d(3, 64, 16), path, size=16, dynamic=())
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_is_not_taken_for_a_file(format_, tmp_path):
    path = tmp_path / f"model{format_.suffix}"
    path.mkdir()
    with pytest.raises(ValueError, match="is a folder; name a file"):
        foveate.export(torch.nn.Conv2d(3, 4, 3), path, size=8, dynamic=())
    assert list(path.iterdir()) == []
