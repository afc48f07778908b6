"""Multi-head attention against PyTorch's and timm's own, with their weights."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention as TimmAttention
from torch import nn

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.contracts import MapOfTokens


def _mask(batch: int, length: int) -> torch.Tensor:
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[:, 0] = True
    return mask


EXTRA = [
    {},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True},
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("extra", EXTRA)
def test_equals_torch(bias, masked, extra):
    torch.manual_seed(0)
    published = nn.MultiheadAttention(16, 4, bias=bias, batch_first=True, **extra).eval()
    for parameter in published.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = MultiHeadAttention(16, 4, qkv_bias=bias, **extra).eval()
    foveate.load_published(ours, published.state_dict())
    x, mask = torch.randn(3, 7, 16, requires_grad=True), _mask(3, 7) if masked else None
    dropped = None if mask is None else ~mask
    y, weights = published(x, x, x, key_padding_mask=dropped, average_attn_weights=False)
    torch.testing.assert_close(ours(x, mask), y)
    assert weights.shape[-1] == 7 + len(extra)
    shown = ours.weights(x, mask)
    torch.testing.assert_close(shown, weights[..., :7])
    torch.testing.assert_close(ours.apply_weights(x, shown), y)
    grads = [torch.autograd.grad(out.sin().sum(), x)[0] for out in (ours(x, mask), y)]
    torch.testing.assert_close(*grads)
    assert count_flops(ours, x[:1]) == 2 * ours.multiply_adds(7)


@pytest.mark.parametrize("extra", EXTRA[1:])
def test_keys_beside_the_tokens_are_never_masked(extra):
    torch.manual_seed(0)
    m = MultiHeadAttention(16, 4, **extra).eval()
    x, mask = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    assert (m.weights(x, mask) == 0).all()
    torch.testing.assert_close(m.apply_weights(x, m.weights(x, mask)), m(x, mask))


def test_a_state_with_a_learned_key_is_refused_without_the_option():
    state = nn.MultiheadAttention(16, 4, add_bias_kv=True).state_dict()
    with pytest.raises(ValueError, match="bias_k"):
        foveate.load_published(MultiHeadAttention(16, 4), state)
    state = nn.MultiheadAttention(16, 4).state_dict()
    with pytest.raises(ValueError, match="bias_k"):
        foveate.load_published(MultiHeadAttention(16, 4, add_bias_kv=True), state)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_equals_timm(qkv_bias):
    torch.manual_seed(0)
    published = TimmAttention(24, 3, qkv_bias=qkv_bias).eval()
    ours = MultiHeadAttention(24, 3, qkv_bias=qkv_bias).eval()
    foveate.load_published(ours, published.state_dict())
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(ours(x), published(x))


def test_a_mask_is_as_if_the_keys_were_not_there():
    torch.manual_seed(0)
    m = MultiHeadAttention(16, 2).eval()
    x, mask = torch.randn(1, 8, 16), _mask(1, 8)
    kept = mask[0]
    torch.testing.assert_close(m(x, mask)[:, kept], m(x[:, kept]))
    torch.testing.assert_close(m.apply_weights(x, m.weights(x, mask)), m(x, mask))


def test_a_query_without_keys_gets_nothing():
    m = MultiHeadAttention(16, 2).eval()
    x, mask = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    assert (m.weights(x, mask) == 0).all()
    torch.testing.assert_close(m(x, mask), m.proj.bias.expand(2, 5, 16))


def test_stands_as_a_mixer_and_its_cost_is_counted():
    m = MapOfTokens(MultiHeadAttention(16, 2)).eval()
    x = torch.randn(2, 16, 5, 3)
    torch.testing.assert_close(m.apply_weights(x, m.weights(x)), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(5, 3)


@pytest.mark.parametrize("mask", [torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 5)])
def test_refuses_a_mask_of_the_wrong_form(mask):
    with pytest.raises(ValueError, match="key_mask must"):
        MultiHeadAttention(16, 2)(torch.randn(2, 5, 16), mask)
