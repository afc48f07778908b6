"""Axial attention: columns, and rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.analysis.flops import count_flops
from foveate.attention.window.axial import AxialAttention


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("size", [(6, 5), (1, 1), (1, 4)])
def test_axial_attends_to_columns_and_rows(size, together):
    torch.manual_seed(0)
    m, x = AxialAttention(16, 2, sum_axial_out=together).eval(), torch.randn(2, 16, *size)

    def along(part, x):  # (B, H, W, C): the second axis from behind is a sequence
        q, k, v = part.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
        q, k, v = (t.transpose(-3, -2) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return part.proj(y.transpose(-3, -2).flatten(-2))

    y = x.permute(0, 2, 3, 1)
    column = along(m.column, y.transpose(1, 2)).transpose(1, 2)
    expected = column + along(m.row, y) if together else along(m.row, column)
    torch.testing.assert_close(m(x), expected.permute(0, 3, 1, 2))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)
