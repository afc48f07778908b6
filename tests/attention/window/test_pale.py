"""Pale attention: which rows and columns form a group, padding, deployment, cost."""

from __future__ import annotations

import pytest
import torch

from foveate.analysis.flops import count_flops
from foveate.attention.window.pale import PaleAttention


def _module(**options) -> PaleAttention:
    torch.manual_seed(0)
    m = PaleAttention(16, 2, **{"pale_size": 2, **options}).eval()
    for convolution in m.qkv:
        convolution.bn.running_mean.normal_()
        convolution.bn.running_var.uniform_(0.5, 2)
    return m


def test_groups_interlace_rows_for_one_half_of_the_heads_and_columns_for_the_other():
    height, width = 6, 8
    seen = _module().weights(torch.randn(1, 16, height, width))[0] > 0
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    same_rows = row[:, None] % (height // 2) == row % (height // 2)
    same_columns = column[:, None] % (width // 2) == column % (width // 2)
    assert torch.equal(seen, torch.stack([same_rows, same_rows, same_columns, same_columns]))


@pytest.mark.parametrize("size", [(7, 5), (9, 8), (2, 3), (1, 1), (1, 5)])
def test_padding_is_attended_by_nobody(size):
    m = _module(pale_size=3)
    x = torch.randn(2, 16, *size)
    w = m.weights(x)
    torch.testing.assert_close(w.sum(-1), torch.ones_like(w.sum(-1)))
    torch.testing.assert_close(m.apply_weights(x, w), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


def test_one_group_is_attention_over_the_whole_map():
    m = _module(pale_size=9)
    x = torch.randn(1, 16, 4, 5)
    q, k, v = (c(x).view(1, 20, 4, 4).transpose(1, 2) for c in m.qkv)  # both halves' heads
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=8**-0.5)
    expected = m.proj(y.transpose(1, 2).reshape(1, 4, 5, 16)).permute(0, 3, 1, 2)
    torch.testing.assert_close(m(x), expected)


def test_scale_is_the_ports_unless_given():
    x = torch.randn(1, 16, 4, 4)
    port, usual = _module(), _module(scale=4**-0.5)
    torch.testing.assert_close(_module(scale=8**-0.5)(x), port(x))
    assert not torch.allclose(usual(x), port(x))


def test_fusing_keeps_the_numbers():
    m, x = _module(qkv_bias=False), torch.randn(2, 16, 6, 4)
    expected = m(x)
    m.fuse()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in m.modules())
    torch.testing.assert_close(m(x), expected)


@pytest.mark.parametrize(("options", "message"), [
    ({"dim": 12, "num_heads": 4}, "multiple of 8"), ({"dim": 16, "kernel_size": 2}, "odd"),
])  # fmt: skip
def test_refuses_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        PaleAttention(**options)
