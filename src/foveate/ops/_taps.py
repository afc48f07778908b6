"""The neighbours of every position: maps read at the taps of a window, in plain PyTorch.

Shapes: maps (B, H, W, C), T = kh * kw taps, row by row. A kernel of odd size is centred, one of
even size reaches one step further back than ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.arguments import one_of, pair

BORDERS = ("zero", "reflect")
"""What taps read beyond the map: zeros, or the map turned round at its last position; where the map
is too small for that, its nearest position."""


def check_taps(
    kernel_size: int | tuple[int, int], dilation: int | tuple[int, int], border: str
) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Height and width of the kernel and of its steps, and the border, of a public function.

    Raises:
        ValueError: if one of them is none.
    """
    kernel, steps = pair(kernel_size, "kernel_size"), pair(dilation, "dilation")
    return kernel, steps, one_of(border, BORDERS, "border")


def neighbours(x: Tensor, kernel: Sequence[int], dilation: Sequence[int], border: str) -> Tensor:
    """``(B, H, W, C) -> (B, H, W, C, T)``."""
    before = [step * (size // 2) for size, step in zip(kernel, dilation, strict=True)]
    reach = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    if border == "reflect":
        for axis in (0, 1):
            places = _reflected(x.shape[1 + axis], before[axis], reach[axis], x.device)
            x = x.index_select(1 + axis, places)
    else:
        (top, left), (down, across) = before, reach
        x = F.pad(x, (0, 0, left, across - left, top, down - top))
    windows = x.unfold(1, reach[0] + 1, 1).unfold(2, reach[1] + 1, 1)  # (B, H, W, C, ., .)
    return windows[..., :: dilation[0], :: dilation[1]].flatten(-2)


def read_places(length: int, kernel: int, dilation: int) -> Tensor:
    """Of an axis with a reflected border, the place that each position's taps read: ``(L, k)``."""
    reach = dilation * (kernel - 1)
    places = _reflected(length, dilation * (kernel // 2), reach, torch.device("cpu"))
    return places.unfold(0, reach + 1, 1)[:, ::dilation]


def _reflected(length: int, before: int, reach: int, device: torch.device) -> Tensor:
    """The positions of an axis that lie where a padded one has its: ``(length + reach,)``."""
    place = (torch.arange(length + reach, device=device) - before).abs()
    last = length - 1
    return (last - (last - place).abs()).clamp(0, last)
