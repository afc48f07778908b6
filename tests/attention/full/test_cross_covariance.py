"""Cross-covariance attention against timm's, and its mask."""

from __future__ import annotations

import pytest
import torch
from timm.models.xcit import XCA
from torch import nn

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.full.cross_covariance import (
    CrossCovarianceAttention,
    LocalPatchInteraction,
)


def test_cross_covariance_equals_timm_and_its_cost_is_counted():
    torch.manual_seed(0)
    published = XCA(24, 3, qkv_bias=True).eval()
    nn.init.normal_(published.temperature)
    ours = CrossCovarianceAttention(24, 3, qkv_bias=True).eval()
    foveate.load_published(ours, published.state_dict())
    x = torch.randn(2, 11, 24)
    torch.testing.assert_close(ours(x), published(x))
    assert count_flops(ours, x[:1]) == 2 * ours.multiply_adds(11)


def test_a_masked_token_is_as_if_it_were_not_there():
    torch.manual_seed(0)
    m, x = CrossCovarianceAttention(16, 2).eval(), torch.randn(1, 8, 16)
    mask = torch.tensor([[True, False, True, True, False, True, True, True]])
    torch.testing.assert_close(m(x, mask)[:, mask[0]], m(x[:, mask[0]]))


def test_local_patch_interaction_refuses_kernels_without_a_middle():
    with pytest.raises(ValueError, match="odd"):
        LocalPatchInteraction(8, 2)
