"""What people have on disk: wrapped, prefixed, with arguments beside it, of another size."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import timm
import torch

import foveate
import foveate.models
from tests.models.small import SMALL


def create(**kwargs):
    return timm.create_model("pvt_tiny", num_classes=5, **SMALL["pvt_tiny"], **kwargs).eval()


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema", "ema", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, prefix):
    source, model = create(), create()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({wrapper: state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="took") as said:
        foveate.load_published(model, tmp_path / "weights.pth")
    (message,) = (str(warning.message) for warning in said)
    assert f"under {wrapper!r}" in message
    assert (f"without {prefix!r}" in message) == bool(prefix)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in source.state_dict().items())


def test_another_image_size_is_resampled_as_load_state_dict_does():
    state, model, expected = create().state_dict(), create(img_size=320), create(img_size=320)
    with pytest.warns(UserWarning, match="pos_embed"):
        foveate.load_published(model, state)
    expected.load_state_dict(state)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in expected.state_dict().items())


def test_another_shape_is_still_refused():
    other = timm.create_model("pvt_tiny", num_classes=7, **SMALL["pvt_tiny"])
    with pytest.raises(ValueError, match=r"head\.fc\.weight"):
        foveate.load_published(create(), other.state_dict())


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"num_classes": 7}, "num_classes=7"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"dims": (24, 32, 48, 64), "num_heads": (3, 2, 3, 4)}, "same options"),
        ({"depths": (3, 1, 2, 1)}, "same options"),
    ],
)
def test_what_does_not_fit_is_told_in_ten_lines_with_what_to_pass(tmp_path, change, advice):
    settings = {"num_classes": 5, **SMALL["pvt_tiny"], **change}
    state = timm.create_model("pvt_tiny", **settings).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'weights.pth'}: ")) as error:
        foveate.load_published(create(), tmp_path / "weights.pth")
    lines = str(error.value).splitlines()
    assert len(lines) <= 10
    assert advice in lines[-1]


def test_a_state_of_another_network_is_told_as_such():
    resnet = timm.create_model("resnet18").state_dict()
    with pytest.raises(ValueError, match="pass") as error:
        foveate.load_published(create(), resnet)
    assert len(str(error.value).splitlines()) <= 10


def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path):
    torch.save({"model": create().state_dict(), "best": np.float64(0.8)}, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="under 'model'"):
        foveate.load_published(create(), tmp_path / "weights.pth")


def test_the_averaged_weights_are_taken_and_the_others_named():
    source, other = create().state_dict(), create().state_dict()
    with pytest.warns(UserWarning, match=r"under 'model_ema', not 'model'"):
        model = foveate.load_published(create(), {"model": other, "model_ema": source})
    assert torch.equal(model.state_dict()["head.fc.weight"], source["head.fc.weight"])


def test_a_wrapper_of_another_name_is_offered():
    with pytest.raises(TypeError, match=re.escape("state['weights']: pass")):
        foveate.load_published(create(), {"epoch": 3, "weights": create().state_dict()})


FIRST_RELEASE = {
    "pyramid_pico": [("slot.", "attention.")],
    "rga_resnet50": [
        (f"neck.{name}", f"neck.norm.{name}")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    ],
}
"""What parts of a model were called in 0.1, and what they are called now."""


def _by_load_state_dict(state, path, name, options):
    model = timm.create_model(name, **options)
    model.load_state_dict(state)
    return model


def _by_load_published(state, path, name, options):
    return foveate.load_published(timm.create_model(name, **options), state)


def _of_a_file(state, path, name, options):
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    with pytest.warns(UserWarning, match="the names without 'module.'"):
        return foveate.load_published(timm.create_model(name, **options), path)


def _by_checkpoint_path(state, path, name, options):
    torch.save(state, path)
    return timm.create_model(name, checkpoint_path=str(path), **options)


def _as_pretrained(state, path, name, options):
    torch.save(state, path)
    where = {"file": str(path), "num_classes": options["num_classes"]}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=where, **options)


@pytest.mark.parametrize(
    "load",
    [_by_load_state_dict, _by_load_published, _of_a_file, _by_checkpoint_path, _as_pretrained],
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pyramid_pico", {"attention": "multi_head"}),
        ("pyramid_pico", {"attention": "relation_aware", "attention_kwargs": {"size": (8, 4)}}),
        ("rga_resnet50", SMALL["rga_resnet50"]),
    ],
    ids=["mixer", "gate", "rga"],
)
def test_weights_of_the_first_release_load_by_every_way(tmp_path, load, name, options):
    torch.manual_seed(0)
    options = {"num_classes": 5, **options}
    then = {"start": "plain"} if name == "pyramid_pico" else {}
    old = timm.create_model(name, **options, **then).eval()
    state = old.state_dict()
    for before, now in FIRST_RELEASE[name]:
        state = {key.replace(now, before): value for key, value in state.items()}
    assert state.keys() != old.state_dict().keys()
    kept = dict(state)
    model = load(state, tmp_path / "old.pth", name, options).eval()
    assert state.keys() == kept.keys()
    x = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(model(x), old(x))


def test_a_folder_is_told_by_the_files_in_it(tmp_path):
    with pytest.raises(ValueError, match="is a folder; it holds no weights"):
        foveate.load_published(create(), tmp_path)
    torch.save(create().state_dict(), tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"is a folder; pass one of its files: 'last\.pth'"):
        foveate.load_published(create(), tmp_path)
