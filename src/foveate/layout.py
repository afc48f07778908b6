"""Where features lie: maps and tokens, heads, padding, windows. One copy of each.

Legend: B batch, C channels, H height, W width, N tokens, n windows, h heads, D head channels.
A ``(B, C, H, W)`` tensor in ``torch.channels_last`` *is* ``(B, H, W, C)`` in memory, so the
conversions between the two are views wherever the memory format allows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_channels_last(x: Tensor) -> Tensor:
    """``(B, C, H, W) -> (B, H, W, C)``, a view."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(y: Tensor, like: Tensor) -> Tensor:
    """``(B, H, W, C) -> (B, C, H, W)`` in the memory format of the map ``like``."""
    return y.permute(0, 3, 1, 2).contiguous(memory_format=memory_format(like))


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format of a 4-D map; one that fits both counts as contiguous."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def map_to_tokens(x: Tensor) -> Tensor:
    """``(B, C, H, W) -> (B, H*W, C)``, row by row."""
    return to_channels_last(x).flatten(1, 2)


def tokens_to_map(tokens: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """``(B, H*W, C) -> (B, C, H, W)`` in the memory format of the map ``like``."""
    return to_channels_first(tokens.unflatten(1, (height, width)), like)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``(..., h*D) -> (..., h, D)``, a view: channels are head-major."""
    return x.unflatten(-1, (num_heads, x.shape[-1] // num_heads))


def merge_heads(x: Tensor) -> Tensor:
    """``(..., h, D) -> (..., h*D)``."""
    return x.flatten(-2)


def pad_to_multiple(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Zero-pad ``(B, H, W, C)`` at the bottom and right to multiples of ``multiple``."""
    bottom = -x.shape[1] % multiple[0]
    right = -x.shape[2] % multiple[1]
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def window_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Split ``(B, H, W, C)`` into windows: ``(B, n, wh*ww, C)``, windows and cells row by row."""
    batch, height, width, dim = x.shape
    wh, ww = window
    x = x.view(batch, height // wh, wh, width // ww, ww, dim).transpose(2, 3)
    return x.reshape(batch, (height // wh) * (width // ww), wh * ww, dim)


def window_merge(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`window_partition` for a map of ``size`` (H, W)."""
    batch, _, _, dim = windows.shape
    (wh, ww), (height, width) = window, size
    x = windows.view(batch, height // wh, width // ww, wh, ww, dim).transpose(2, 3)
    return x.reshape(batch, height, width, dim)
