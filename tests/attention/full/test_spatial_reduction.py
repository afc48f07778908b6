"""Spatial-reduction attention against timm's."""

from __future__ import annotations

import pytest
import torch
from timm.models.pvt_v2 import Attention as TimmSpatialReduction

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.full.spatial_reduction import SpatialReductionAttention


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
@pytest.mark.parametrize("options", [{"sr_ratio": 1}, {"sr_ratio": 3}, {"linear_attn": True}])
def test_spatial_reduction_equals_timm(size, options):
    torch.manual_seed(0)
    published = TimmSpatialReduction(16, 2, qkv_bias=True, **options).eval()
    ours = SpatialReductionAttention(
        16, 2, options.get("sr_ratio", 2), linear="linear_attn" in options
    ).eval()
    foveate.load_published(ours, published.state_dict())
    x = torch.randn(2, 16, *size)
    expected = published(x.flatten(2).mT, list(size)).mT.unflatten(2, size)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (2, 9)])
@pytest.mark.parametrize("options", [{"sr_ratio": 1}, {"sr_ratio": 3}, {"linear": True}])
def test_the_cost_of_spatial_reduction_is_counted(size, options):
    m = SpatialReductionAttention(16, 2, **options).eval()
    assert count_flops(m, torch.randn(1, 16, *size)) == 2 * m.multiply_adds(*size)
