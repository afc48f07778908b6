"""What mechanisms that attend inside the parts of a map share, beside the operator."""

from __future__ import annotations

from torch import Tensor

from foveate import layout
from foveate.ops.window.windows import Windows, WindowSize, fitted


def cut_into(size: tuple[int, int], part: WindowSize) -> Windows:
    """The parts of a map of ``size``; they are no larger than it."""
    return Windows(size, fitted(size, part))


def table_bias(table: Tensor, full: tuple[int, int], part: tuple[int, int]) -> Tensor:
    """``(h, T, T)`` from a table of biases by offset, keys first in memory as the kernel reads it.

    Args:
        table: ``((2*fh-1)*(2*fw-1), h)``, by query - key in a part of the full size.
        full: the full size (fh, fw).
        part: that of the parts; ones that shrank to the map take the middle of the table.
    """
    (full_h, full_w), (rows, columns) = full, part
    table = table.view(2 * full_h - 1, 2 * full_w - 1, -1)
    table = table[full_h - rows : full_h + rows - 1, full_w - columns : full_w + columns - 1]
    index = layout.relative_index(part, table.device).mT
    return table.flatten(0, 1).mT.index_select(1, index.flatten()).unflatten(1, index.shape).mT


def one_hot_values(q: Tensor) -> Tensor:
    """Values ``(B, H, W, h, H*W)`` for queries ``q`` whose attention is its own weights."""
    positions = layout.one_hot_positions(q, q.shape[1], q.shape[2])
    return positions[:, :, :, None].expand(*q.shape[:-1], -1)


def dense(y: Tensor) -> Tensor:
    """``(B, H, W, h, H*W)``, attended :func:`one_hot_values`, as weights ``(B, h, H*W, H*W)``."""
    return y.flatten(1, 2).transpose(1, 2)


def apply_dense(weights: Tensor, v: Tensor) -> Tensor:
    """Weights ``(B, h, H*W, H*W)`` on values ``(B, H, W, h, D)``: ``(B, H, W, h*D)``."""
    y = weights @ v.flatten(1, 2).transpose(1, 2)  # (B, h, H*W, D)
    return layout.merge_heads(y.transpose(1, 2)).unflatten(1, tuple(v.shape[1:3]))
