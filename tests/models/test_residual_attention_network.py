"""The stem's pooling, the form for small images, and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch.nn import functional as F

from foveate.models._layers import CornerPool
from foveate.models.residual_attention_network import ResidualAttentionNetwork

NARROW = {"stem_dim": 8, "dims": (16, 24, 32, 48), "levels": (1, 1, 0), "trunk_blocks": 1}


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 2)])
def test_pooling_is_caffes_and_loses_no_odd_row(size):
    x = torch.randn(2, 3, *size)
    y = CornerPool()(x)
    assert list(y.shape[2:]) == [-(-side // 2) for side in size]
    if size != (1, 2):
        caffe = F.max_pool2d(x, 3, 2, ceil_mode=True)
        assert torch.equal(y[..., : caffe.shape[2], : caffe.shape[3]], caffe)


@torch.no_grad()
@pytest.mark.parametrize(
    ("stem", "sides"), [("small", (33, 17, 9, 9)), ("small_pooled", (17, 9, 5, 5))]
)
def test_for_small_images_the_last_stage_keeps_the_size(stem, sides):
    model = ResidualAttentionNetwork(stem=stem, port=True, num_classes=10, **NARROW).eval()
    maps = model.forward_intermediates(torch.randn(2, 3, 33, 20), intermediates_only=True)
    assert tuple(x.shape[2] for x in maps) == sides
    assert [-(-33 // info["reduction"]) for info in model.feature_info] == list(sides)


def test_the_form_for_larger_images_has_one_stage_more():
    model = ResidualAttentionNetwork(
        dims=(8, 16, 24, 32, 40), modules=(1, 1, 2, 3), levels=(4, 3, 2, 1), port=True
    )
    published = {
        "residual_block0.conv1.weight": "stages.0.downsample.conv1.weight",
        "attention_module3_3.last_blocks.conv1.weight": "stages.3.blocks.2.last.conv1.weight",
        "residual_block6.conv1.weight": "stages.4.blocks.1.conv1.weight",
    }
    ours = model.convert_published({name: torch.zeros(()) for name in published})
    assert set(ours) == set(published.values())


def test_stochastic_depth_rises_over_the_residual_blocks():
    model = ResidualAttentionNetwork(drop_path_rate=0.2, **NARROW)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2)


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one number for each stage but the last"):
        ResidualAttentionNetwork(modules=(1, 1))
