"""What people have on disk: wrapped, prefixed, with arguments beside it, of another size."""

from __future__ import annotations

import argparse

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
    foveate.load_published(model, tmp_path / "weights.pth")
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
