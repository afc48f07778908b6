"""Layouts of features: maps and tokens, heads, padding, windows, and their inverses.

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
    return in_format(y.permute(0, 3, 1, 2), memory_format(like))


def in_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A map in a memory format, by permutations alone, which ``torch.func.vmap`` knows."""
    if memory_format is torch.channels_last:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return x.contiguous()


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
    if torch.compiler.is_exporting():
        # Whether this is a view depends on the strides of attention's output, which an exporter
        # may choose anew once the graph is recorded.
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(-2)


def ceil_to_multiple(size: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``size``."""
    return (size + multiple - 1) // multiple * multiple


def pad_to_multiple(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Zero-pad ``(B, H, W, C)`` at the bottom and right to multiples of ``multiple``."""
    height, width = (ceil_to_multiple(x.shape[i + 1], multiple[i]) for i in (0, 1))
    return pad_to_size(x, (height, width))


def pad_to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad ``(B, H, W, C)`` at the bottom and right to ``size`` (H, W)."""
    bottom, right = size[0] - x.shape[1], size[1] - x.shape[2]
    if is_known(bottom) and is_known(right) and bottom == right == 0:
        return x
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left ``size`` (H, W) of ``(B, H, W, C)``: the inverse of :func:`pad_to_size`."""
    if is_known(size[0]) and is_known(size[1]):
        return x[:, : size[0], : size[1]]
    # Strides of a symbolic slice would tie an export to sizes that need, or do not need, padding.
    rows, columns = (torch.arange(length, device=x.device) for length in size)
    return x.index_select(1, rows).index_select(2, columns)


def rolled(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """``(B, H, W, C)`` moved down and right by ``shift``, what leaves at an end coming in again."""
    if is_known(shift[0]) and is_known(shift[1]):
        return x if shift == (0, 0) else x.roll(shift, (1, 2))
    for axis, move in zip((1, 2), shift, strict=True):  # exporters roll by numbers alone
        places = torch.arange(x.shape[axis], device=x.device) - move
        places = torch.where(places < 0, places + x.shape[axis], places)
        places = torch.where(places >= x.shape[axis], places - x.shape[axis], places)
        x = x.index_select(axis, places)
    return x


def is_known(size: int) -> bool:
    """Whether ``size`` is a number, not a symbol.

    In a dynamic export sizes are symbols, and so they are to the compiler, though it shows them as
    integers; a branch on one would fix the export to that case, or compile anew for the other.
    """
    if torch.compiler.is_dynamo_compiling():
        from torch.fx.experimental.symbolic_shapes import has_static_value

        return has_static_value(size)
    return not isinstance(size, torch.SymInt)


def is_same(one: int, other: int) -> bool:
    """Whether two sizes are equal; for symbols, whether they are equal at every value.

    It adds no guard to an export, as ``==`` on symbols would.
    """
    if is_known(one) and is_known(other):
        return one == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(one == other)


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


def grid_partition(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Split ``(B, H, W, C)`` into groups of evenly spread cells: ``(B, n, gh*gw, C)``.

    Where a window holds neighbours, a group holds every ``H // gh``-th row and ``W // gw``-th
    column: group (i, j) has rows i, i + H/gh, ... Groups and cells go row by row.
    """
    batch, height, width, dim = x.shape
    gh, gw = grid
    x = x.view(batch, gh, height // gh, gw, width // gw, dim).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, (height // gh) * (width // gw), gh * gw, dim)


def grid_merge(groups: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`grid_partition` for a map of ``size`` (H, W)."""
    batch, _, _, dim = groups.shape
    (gh, gw), (height, width) = grid, size
    x = groups.view(batch, height // gh, width // gw, gh, gw, dim).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, height, width, dim)


def relative_index(window: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """``(T, T)``, T = wh*ww: where a table of ``(2*wh-1)*(2*ww-1)`` offsets has query - key."""
    wh, ww = window
    rows = torch.arange(wh, device=device)
    columns = torch.arange(ww, device=device)
    down = (rows[:, None] - rows + wh - 1).view(wh, 1, wh, 1)
    across = (columns[:, None] - columns + ww - 1).view(1, ww, 1, ww)
    return (down * (2 * ww - 1) + across).reshape(wh * ww, wh * ww)


def one_hot_positions(like: Tensor, height: int, width: int) -> Tensor:
    """``(1, H, W, H*W)``: for each position the unit vector of its index.

    Attention with these as values gives its own dense weights as output.
    """
    eye = torch.eye(height * width, dtype=like.dtype, device=like.device)
    return eye.view(1, height, width, height * width)
