"""Multi-head attention over a memory: what it shares with self-attention, and its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.full.multi_head_cross import MultiHeadCrossAttention


def test_over_its_own_tokens_it_is_self_attention() -> None:
    torch.manual_seed(0)
    published = nn.MultiheadAttention(16, 4, batch_first=True)
    cross, own = MultiHeadCrossAttention(16, 4), MultiHeadAttention(16, 4)
    for module in (cross, own):
        foveate.load_published(module, published.state_dict())
    x, mask = torch.randn(2, 7, 16), torch.arange(7) < torch.tensor([[7], [4]])
    y, weights = cross(x, x, mask=mask[:, None, None])
    torch.testing.assert_close(y, own(x, mask))
    torch.testing.assert_close(weights, own.weights(x, mask))


def test_closed_form_equals_the_counter() -> None:
    module = MultiHeadCrossAttention(16, 4, key_dim=10, value_dim=12)
    inputs = (torch.randn(1, 5, 16), torch.randn(1, 7, 10), torch.randn(1, 7, 12))
    assert count_flops(module, *inputs) == 2 * module.multiply_adds(5, 7)


def test_a_query_that_may_see_nothing_gets_nothing() -> None:
    module = MultiHeadCrossAttention(8, 2)
    y, weights = module(torch.randn(1, 3, 8), torch.randn(1, 4, 8), mask=torch.zeros(4).bool())
    assert not weights.any()
    torch.testing.assert_close(y, module.proj.bias.expand(1, 3, 8))


def test_refusals() -> None:
    module = MultiHeadCrossAttention(8, 2, key_dim=6)
    query, key = torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    with pytest.raises(ValueError, match="divide"):
        MultiHeadCrossAttention(8, 3)
    with pytest.raises(ValueError, match=r"key \(B, N, 6\)"):
        module(query, query)
    with pytest.raises(ValueError, match="agree in batch, heads and length"):
        module(query, key, key[:, 1:])
    with pytest.raises(ValueError, match="mask must be boolean"):
        module(query, key, mask=torch.ones(3, 4))
