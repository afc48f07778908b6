"""Axial attention: columns, and rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.analysis.flops import count_flops
from foveate.attention.window.axial import AxialAttention


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("size", [(6, 5), (1, 1), (1, 4), (3, 4, 5), (1, 1, 1), (4, 1, 2)])
def test_axial_attends_along_each_axis(size, together):
    torch.manual_seed(0)
    volume = len(size) == 3
    m = AxialAttention(16, 2, volume=volume, sum_axial_out=together).eval()
    x = torch.randn(2, 16, *size)

    def along(part, x):  # (B, ..., C): the second axis from behind is a sequence
        q, k, v = part.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
        q, k, v = (t.transpose(-3, -2) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return part.proj(y.transpose(-3, -2).flatten(-2))

    parts = [m.depth, m.column, m.row] if volume else [m.column, m.row]
    y, expected = x.movedim(1, -1), 0
    for axis, part in enumerate(parts, 1):
        attended = along(part, y.transpose(axis, -2)).transpose(axis, -2)
        expected = expected + attended if together else attended
        y = y if together else attended
    torch.testing.assert_close(m(x), expected.movedim(-1, 1))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


def test_a_volume_keeps_its_memory_format_and_a_map_is_refused():
    m, x = AxialAttention(16, 2, volume=True).eval(), torch.randn(2, 16, 3, 4, 5)
    last = x.to(memory_format=torch.channels_last_3d)
    assert m(x).is_contiguous()
    assert m(last).is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(m(last), m(x))
    assert m(x[:0]).shape == (0, 16, 3, 4, 5)
    with pytest.raises(ValueError, match=r"feature volume \(B, C, D, H, W\)"):
        m(x[:, :, 0])
    with pytest.raises(ValueError, match=r"feature map \(B, C, H, W\)"):
        AxialAttention(16, 2)(x)


@pytest.mark.slow
@torch.no_grad()
def test_volumes_compile_and_export_with_free_sizes():
    m = AxialAttention(16, 2, volume=True).eval()
    compiled = torch.compile(m, fullgraph=True, dynamic=True, backend="eager")
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free, 4: free},)
    exported = torch.export.export(m, (torch.randn(3, 16, 4, 5, 6),), dynamic_shapes=shapes)
    for size in ((4, 5, 6), (7, 3, 2)):
        x = torch.randn(2, 16, *size)
        torch.testing.assert_close(compiled(x), m(x))
        torch.testing.assert_close(exported.module()(x), m(x))
