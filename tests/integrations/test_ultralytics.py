"""YOLO by name and by insertion, against Ultralytics where it is installed."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import foveate
from foveate.integrations import ultralytics as integration

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
_open = Image.open
YOLO = pytest.importorskip("ultralytics").YOLO
Image.open = _open  # it puts its own in place, and other tests' errors would be other ones

BLOCKS = [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "C3k2", [256, False]],
          [-1, 1, "Conv", [256, 3, 2]]]  # fmt: skip


def written(folder: Path, name: str, *arguments: object, classes: int = 2) -> Path:
    """A small detector with one layer of ours."""
    backbone = [*BLOCKS, [-1, 1, name, list(arguments)]]
    path = folder / "small.yaml"
    path.write_text(
        yaml.safe_dump({"nc": classes, "depth_multiple": 0.5, "width_multiple": 0.25,
                        "backbone": backbone, "head": [[[4], 1, "Detect", ["nc"]]]})
    )  # fmt: skip
    return path


def features(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What goes into the detector's head."""
    network = network.float().eval()
    with torch.no_grad():
        for layer in list(network.model)[:4]:
            x = layer(x)
    return x


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Eight pictures of squares to train on and four to measure on, as Ultralytics reads them."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            x, y = rng.integers(0, 40, 2)
            pixels[y : y + 20, x : x + 20] = 255
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            line = f"{i % 2} {(x + 10) / 64} {(y + 10) / 64} {20 / 64} {20 / 64}"
            (root / "labels" / split / f"{i}.txt").write_text(line)
    data = {"path": str(root), "train": "images/train", "val": "images/val",
            "names": {0: "even", 1: "odd"}}  # fmt: skip
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    return root / "data.yaml"


def trained(yolo, pictures: Path, folder: Path, epochs: int = 1, **settings: object) -> Path:
    yolo.train(
        data=str(pictures), epochs=epochs, imgsz=64, batch=4, workers=0, device="cpu", plots=False,
        project=str(folder), name="run", exist_ok=True, verbose=False, seed=0, **settings,
    )  # fmt: skip
    return folder / "run" / "weights" / "last.pt"


def same_as_saved(yolo, path: Path) -> bool:
    """Whether the file gives what training ended with, which it holds in half precision."""
    x = torch.rand(2, 3, 64, 64)
    ended = copy.deepcopy(yolo.trainer.ema.ema).half()
    return torch.equal(features(ended, x), features(YOLO(path).model, x))


@pytest.mark.parametrize(
    ("name", "options"),
    [("cbam", {"reduction": 8}), ("neighborhood", {"kernel_size": 3}), ("multi_head", None)],
)
def test_mechanisms_are_names_of_a_models_file(name, options, tmp_path):
    assert f"foveate.{name}" in integration.register()
    arguments = [] if options is None else [options]
    yolo = YOLO(written(tmp_path, f"foveate.{name}", *arguments))
    layer = yolo.model.model[4]
    assert isinstance(layer, integration.Layer)
    assert isinstance(layer.mechanism, foveate.describe(name).cls) or name == "multi_head"
    assert sum(p.numel() for p in layer.parameters()) > 0
    yolo.model.train()(torch.rand(1, 3, 64, 64))


def test_aligners_are_no_names():
    names = integration.register()
    assert "foveate.additive" not in names
    assert len(names) > 30


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cbm", {}, "unknown attention 'cbm'; did you mean 'cbam'"),
        ("cbam", {"reductio": 8}, "cbam has no option 'reductio'; did you mean 'reduction'"),
        ("additive", {}, "'additive' is an aligner and cannot stand as a gate or mixer"),
    ],
)
def test_a_wrong_layer_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        integration.Layer(name, options)


def test_a_layer_without_channels_yet_refuses_weights():
    state = {f"0.{key}": value for key, value in _seen(integration.Layer("cbam")).items()}
    with pytest.raises(RuntimeError, match=r"0\.cbam has not seen an image yet"):
        nn.Sequential(integration.Layer("cbam")).load_state_dict(state)


def _seen(layer: nn.Module) -> dict[str, torch.Tensor]:
    layer(torch.rand(1, 32, 4, 4))
    return layer.state_dict()


def test_inserting_keeps_weights_and_reloads_by_its_own_reader(tmp_path):
    integration.register()
    yolo = YOLO(written(tmp_path, "nn.Identity"))
    x = torch.rand(2, 3, 64, 64)
    state = copy.deepcopy(yolo.model.state_dict())
    before = features(yolo.model, x)
    assert integration.insert(yolo, "cbam", at="stage") is yolo
    assert torch.equal(features(yolo.model, x), before)
    now = yolo.model.state_dict()
    assert all(torch.equal(now[key], value) for key, value in state.items())
    for parameter in foveate.added(yolo.model):
        parameter.data.add_(0.5)
    changed = features(yolo.model, x)
    assert not torch.allclose(changed, before, atol=1e-3)
    yolo.save(tmp_path / "changed.pt")
    again = YOLO(tmp_path / "changed.pt")
    assert len(foveate.changes(again.model)) == len(foveate.changes(yolo.model))
    assert torch.equal(features(again.model, x), features(copy.deepcopy(yolo.model).half(), x))
    fused = features(copy.deepcopy(yolo.model).fuse(verbose=False), x)
    assert torch.allclose(fused, features(yolo.model, x), atol=1e-3)


def test_what_holds_no_network_or_no_change_is_refused(tmp_path):
    with pytest.raises(TypeError, match="expected a YOLO that holds a network, got int"):
        integration.insert(3, "cbam")
    with pytest.raises(ValueError, match="nothing was inserted into this model"):
        integration.trainer(YOLO(written(tmp_path, "nn.Identity")))


@pytest.mark.slow
def test_a_model_of_a_file_trains_and_reloads_with_the_same_numbers(tmp_path, pictures):
    integration.register()
    yolo = YOLO(written(tmp_path, "foveate.cbam"))
    saved = trained(yolo, pictures, tmp_path, epochs=2)
    assert same_as_saved(yolo, saved)
    assert isinstance(YOLO(saved).model.model[4], integration.Layer)


@pytest.mark.slow
def test_training_keeps_what_was_inserted_or_is_refused(tmp_path, pictures):
    yolo = YOLO(written(tmp_path, "nn.Identity", classes=3))
    integration.insert(yolo, "cbam", at="stage")
    with pytest.raises(ValueError, match=r"pass trainer=foveate.integrations.ultralytics.trainer"):
        trained(yolo, pictures, tmp_path)
    yolo = integration.insert(YOLO(written(tmp_path, "nn.Identity", classes=3)), "cbam", at="stage")
    with pytest.warns(UserWarning, match="start fresh, since they do not fit those of the model"):
        saved = trained(yolo, pictures, tmp_path, trainer=integration.trainer(yolo))
    assert len(foveate.changes(YOLO(saved).model)) > 0
    assert same_as_saved(yolo, saved)
