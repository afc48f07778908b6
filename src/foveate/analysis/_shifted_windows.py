"""Which positions share a window in timm's Swin blocks, shifted and padded.

The block itself says: it cuts a map of numbers into windows, with the attention left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Cut(Exception):  # noqa: N818  no error: what ends the block once its windows are cut
    def __init__(self, windows: Tensor) -> None:
        self.windows = windows


class _WithoutAttention:
    """A block whose attention hands out the windows that it gets."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def attn(self, windows: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _Cut(windows)


def is_windowed(block: nn.Module) -> bool:
    """Whether ``block`` cuts its map into windows as Swin's does."""
    return hasattr(block, "window_area") and hasattr(type(block), "_attn")


def windows_of(block: Any, grid: tuple[int, int]) -> Tensor:
    """Positions in each window (windows, cells), counted from 0 row by row; -1 is padding.

    Args:
        block: for which :func:`is_windowed` holds.
        grid: rows and columns of the map that it gets.
    """
    like = next(block.parameters())
    numbers = torch.arange(1, grid[0] * grid[1] + 1, dtype=torch.float64, device=like.device)
    try:
        type(block)._attn(_WithoutAttention(block), numbers.view(1, *grid, 1))
    except _Cut as cut:
        return cut.windows.squeeze(-1).long() - 1
    raise RuntimeError(f"{type(block).__name__} did not call its attention")
