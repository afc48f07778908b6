"""Window attention: Swin's windows, shifts, bias and padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.analysis.flops import count_flops
from foveate.attention.window.window import WindowAttention


def _reference(m: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Swin's detection code in the plainest words: every pair of cells, one by one."""
    (wh, ww), (sh, sw) = m.window_size, m.shift_size
    b, c, height, width = x.shape
    hp, wp = -(-height // wh) * wh, -(-width // ww) * ww
    z = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, wp - width, 0, hp - height))
    q, k, v = m.qkv(z).view(b, hp * wp, 3, m.num_heads, -1).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) * m.head_dim**-0.5
    table = m.relative_position_bias_table.view(2 * wh - 1, 2 * ww - 1, -1)
    allowed = torch.zeros(hp * wp, hp * wp, dtype=torch.bool)
    bias = torch.zeros(m.num_heads, hp * wp, hp * wp)
    for p in range(hp * wp):
        for r in range(hp * wp):
            (pi, pj), (ri, rj) = divmod(p, wp), divmod(r, wp)
            # A window of the shifted grid: cut at the map's end, not joined round it.
            rows = (pi - sh) // wh == (ri - sh) // wh
            columns = (pj - sw) // ww == (rj - sw) // ww
            if rows and columns:
                allowed[p, r] = True
                bias[:, p, r] = table[pi - ri + wh - 1, pj - rj + ww - 1]
    weights = (logits + bias).masked_fill(~allowed, float("-inf")).softmax(-1)
    y = (weights @ v).transpose(1, 2).reshape(b, hp, wp, c)[:, :height, :width]
    return m.proj(y).permute(0, 3, 1, 2)


def _module(**options) -> WindowAttention:
    torch.manual_seed(0)
    m = WindowAttention(8, 2, **options).eval()
    torch.nn.init.normal_(m.relative_position_bias_table)
    return m


@pytest.mark.parametrize("size", [(8, 12), (4, 8), (9, 7), (3, 10), (1, 1)])
@pytest.mark.parametrize("shift", [0, 2, (1, 3)])
def test_zero_padding_takes_part_as_in_swins_detection_code(size, shift):
    m = _module(window_size=4, shift_size=shift, pad="zero")
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(m(x), _reference(m, x))


@pytest.mark.parametrize("shift", [0, 2])
def test_padding_does_not_matter_when_windows_divide_the_map(shift):
    x = torch.randn(2, 8, 8, 12)
    masked = _module(window_size=4, shift_size=shift)
    zero = _module(window_size=4, shift_size=shift, pad="zero")
    torch.testing.assert_close(masked(x), zero(x))


@pytest.mark.parametrize("size", [(9, 7), (5, 11), (10, 8)])
@pytest.mark.parametrize("shift", [0, 2])
def test_masked_padding_is_attended_by_nobody(size, shift):
    m = _module(window_size=4, shift_size=shift)
    w = m.weights(torch.randn(2, 8, *size))
    torch.testing.assert_close(w.sum(-1), torch.ones_like(w.sum(-1)))


def test_a_window_larger_than_the_map_is_attention_over_the_map():
    m = _module(window_size=7, shift_size=3)
    x = torch.randn(2, 8, 5, 4)
    small = _module(window_size=(5, 4))
    small.load_state_dict(m.state_dict() | {
        "relative_position_bias_table": m.relative_position_bias_table.detach()
        .view(13, 13, 2)[2:11, 3:10].reshape(-1, 2)
    })  # fmt: skip
    torch.testing.assert_close(m(x), small(x))
    assert (m.weights(x) > 0).all()


@pytest.mark.parametrize("options", [{}, {"shift_size": 3}, {"shift_size": 2, "pad": "zero"}])
@pytest.mark.parametrize("size", [(8, 8), (7, 14), (10, 17), (3, 9)])
def test_weights_reproduce_the_output_and_the_cost_is_counted(options, size):
    m = _module(window_size=4, **options)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(m.apply_weights(x, m.weights(x)), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


def test_refuses_a_shift_as_large_as_the_window():
    with pytest.raises(ValueError, match="less than window_size"):
        WindowAttention(8, 2, window_size=4, shift_size=4)


def test_exports_with_sizes_that_windows_do_not_divide():
    m = _module(window_size=4, shift_size=2)
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(m, (torch.randn(2, 8, 10, 13),), dynamic_shapes=(dims,))
    for size in ((16, 12), (9, 31)):
        x = torch.randn(3, 8, *size)
        torch.testing.assert_close(program.module()(x), m(x))
