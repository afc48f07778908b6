"""Neighborhood attention: whom a position attends to, small maps, weights and cost."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.analysis.flops import count_flops
from foveate.attention.local.neighborhood import NeighborhoodAttention


def _module(**options) -> NeighborhoodAttention:
    torch.manual_seed(0)
    m = NeighborhoodAttention(8, 2, **options).eval()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return m


def _neighbours(i: int, length: int, kernel: int, dilation: int) -> list[int]:
    """The kernel positions nearest to ``i`` among those of its remainder."""
    own = list(range(i % dilation, length, dilation))
    start = min(max(own.index(i) - kernel // 2, 0), len(own) - kernel)
    return own[start : start + kernel]


def _reference(m: NeighborhoodAttention, x: torch.Tensor) -> torch.Tensor:
    kernel, dilation = m.kernel_size, m.dilation
    b, _, height, width = x.shape
    hp, wp = max(height, kernel * dilation), max(width, kernel * dilation)
    z = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, wp - width, 0, hp - height))
    q, k, v = m.qkv(z).view(b, hp, wp, 3, m.num_heads, -1).unbind(3)
    out = torch.zeros_like(q)
    for i in range(hp):
        for j in range(wp):
            rows, columns = (
                _neighbours(i, hp, kernel, dilation),
                _neighbours(j, wp, kernel, dilation),
            )
            keys, values = (t[:, rows][:, :, columns].flatten(1, 2) for t in (k, v))
            logits = torch.einsum("bhd,bnhd->bhn", q[:, i, j], keys) * m.head_dim**-0.5
            if m.rpb is not None:
                down = [(r - i) // dilation + kernel - 1 for r in rows]
                across = [(s - j) // dilation + kernel - 1 for s in columns]
                logits = logits + m.rpb[:, down][:, :, across].flatten(1)
            out[:, i, j] = torch.einsum("bhn,bnhd->bhd", logits.softmax(-1), values)
    return m.proj(out[:, :height, :width].flatten(-2)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(9, 7), (6, 11), (4, 8), (1, 1)])
@pytest.mark.parametrize("options", [
    {"kernel_size": 3}, {"kernel_size": 3, "dilation": 2}, {"kernel_size": 5, "rel_pos_bias": False}
])  # fmt: skip
def test_equals_attention_to_the_nearest_positions(size, options):
    m = _module(**options)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(m(x), _reference(m, x))


@pytest.mark.parametrize("size", [(9, 7), (7, 14), (4, 2), (1, 1)])
@pytest.mark.parametrize("options", [{"kernel_size": 3, "dilation": 2}, {"kernel_size": 7}])
def test_weights_reproduce_the_output_and_the_cost_is_counted(options, size):
    m = _module(**options)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(m.apply_weights(x, m.weights(x)), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


def test_weights_without_padding_are_distributions_over_the_window():
    m = _module(kernel_size=3, dilation=2)
    w = m.weights(torch.randn(2, 8, 7, 6))
    torch.testing.assert_close(w.sum(-1), torch.ones(2, 2, 42))
    assert ((w > 0).sum(-1) == 9).all()


def test_the_padding_of_a_small_map_keeps_its_share():
    m = _module(kernel_size=3)
    w = m.weights(torch.randn(2, 8, 2, 5))
    assert (w.sum(-1) < 1).all()


@pytest.mark.parametrize("kernel_size", [1, 4])
def test_refuses_kernels_without_a_middle_or_neighbours(kernel_size):
    with pytest.raises(ValueError, match="odd and at least 3"):
        NeighborhoodAttention(8, 2, kernel_size=kernel_size)


def test_the_factor_of_the_products_may_be_given():
    m = _module(kernel_size=3, rel_pos_bias=False, qk_scale=0.9)
    x = torch.randn(1, 8, 5, 6)
    weights = m.weights(x)
    plain = _module(kernel_size=3, rel_pos_bias=False)
    with torch.no_grad():
        plain.qkv.weight[:8] *= 0.9 * plain.head_dim**0.5
        plain.qkv.bias[:8] *= 0.9 * plain.head_dim**0.5
    torch.testing.assert_close(plain.weights(x), weights)
    torch.testing.assert_close(plain(x), m(x))


@pytest.mark.parametrize("qk_scale", [0, float("nan"), "0.5", True])
def test_a_scale_that_is_no_number_is_refused(qk_scale):
    with pytest.raises(ValueError, match="qk_scale must be a number other than zero"):
        _module(qk_scale=qk_scale)
