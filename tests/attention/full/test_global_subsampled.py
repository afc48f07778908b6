"""Global sub-sampled attention: its cells."""

from __future__ import annotations

import pytest
import torch
from timm.models.twins import GlobalSubSampleAttn

import foveate
from foveate.attention.full.global_subsampled import GlobalSubsampledAttention
from foveate.attention.full.multi_head import MultiHeadAttention


@pytest.mark.parametrize("size", [(8, 12), (9, 14)])
def test_equals_timms(size: tuple[int, int]) -> None:
    theirs = GlobalSubSampleAttn(16, 4, sr_ratio=4).eval()
    torch.nn.init.normal_(theirs.norm.weight)
    ours = GlobalSubsampledAttention(16, 4, 4).eval()
    foveate.load_published(ours, theirs.state_dict())
    x = torch.randn(2, 16, *size)
    expected = theirs(x.flatten(2).mT, size).mT.reshape(x.shape)
    torch.testing.assert_close(ours(x), expected)


def test_cells_of_one_position_are_plain_attention() -> None:
    ours, full = GlobalSubsampledAttention(16, 4, 1).eval(), MultiHeadAttention(16, 4).eval()
    for leaf in ("weight", "bias"):
        both = torch.cat([getattr(ours.q, leaf), getattr(ours.kv, leaf)])
        getattr(full.qkv, leaf).data = both.detach()
    full.proj = ours.proj
    x = torch.randn(2, 16, 5, 6)
    torch.testing.assert_close(ours(x).flatten(2).mT, full(x.flatten(2).mT))


@pytest.mark.parametrize("summary", ["convolution", "depthwise", "mean"])
def test_weights_of_a_cell_are_spread_over_it(summary: str) -> None:
    module = GlobalSubsampledAttention(16, 4, 3, summary=summary).eval()
    x = torch.randn(2, 16, 7, 6)  # the last row lies in no cell
    weights = module.weights(x).unflatten(-1, (7, 6))
    assert not weights[..., 6, :].any()
    torch.testing.assert_close(weights[..., 0, 0], weights[..., 2, 2])
    torch.testing.assert_close(module.apply_weights(x, weights.flatten(-2)), module(x))
