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


def test_a_folder_is_told_by_the_files_in_it(tmp_path):
    with pytest.raises(ValueError, match="is a folder; it holds no weights"):
        foveate.load_published(create(), tmp_path)
    torch.save(create().state_dict(), tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"is a folder; pass one of its files: 'last\.pth'"):
        foveate.load_published(create(), tmp_path)
