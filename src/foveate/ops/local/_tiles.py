"""How a map is cut into tiles of queries, and which keys these reach: for forms in plain PyTorch.

Both axes are planned alone (:class:`Axis`) and combined. With a dilation ``d`` the positions of
equal remainder modulo ``d`` form a class; tiles and windows stay within a class.

Legend: H x W map, h heads; per axis n tiles, T queries of a tile, S keys that a tile can reach;
t = Th*Tw, s = Sh*Sw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.layout import is_known


@dataclass(frozen=True)
class Axis:
    """One axis cut into n tiles of T queries, each reaching S keys."""

    queries: Tensor  # (n, T) positions; in a tile longer than its class the last is repeated
    keys: Tensor  # (n, S) positions within the map
    inside: Tensor  # (n, S) False where the key lies outside the map
    taps: Tensor  # (n, T, S) which tap of the query's window the key is; may be out of range
    offsets: Tensor  # (n, T, S), or (1, T, S) where all tiles' are alike: (key - query) / dilation
    order: Tensor  # (length,) where each position's result lies among the n * T


def plan(
    length: int, kernel: int, dilation: int, border: str, tile: int, device: torch.device
) -> Axis:
    """An axis of ``length`` positions in tiles of ``tile`` queries, the last one moved inward.

    With a size that is free, tiles may be longer than asked for.
    """

    def count(stop: int) -> Tensor:
        return torch.arange(stop, device=device)

    def members(remainder: Tensor) -> Tensor:
        return (length + dilation - 1 - remainder) // dilation  # positions of a class

    within = is_known(length) and border in ("shift", "mask")  # blocks of keys stay on the map
    if border == "shift" and not is_known(length):
        tile = max(tile, kernel // 2 + 1)  # a window moved inward stays in the tile's block
    tiles, reach = extent(length, kernel, dilation, border, tile)
    remainder = count(dilation)[:, None, None]  # (d, 1, 1)
    size = members(remainder)
    first = (count(tiles)[:, None] * tile).minimum(size - tile).clamp(min=0)  # (d, n, 1)
    query = first + count(tile)  # (d, n, T), counted within the class
    start = query - kernel // 2
    block = first - kernel // 2
    if border == "shift":
        start = start.clamp(min=0).minimum(size - kernel)
    if within:
        block = block.minimum(size - reach).clamp(min=0)
    key = block + count(reach)  # (d, n, S)
    position = key * dilation + remainder
    inside = (position >= 0) & (position < length)
    if border == "reflect":
        position = position.abs()
        position = length - 1 - (length - 1 - position).abs()
    position = position.clamp(0, length - 1)
    offsets = count(reach) - kernel // 2 - count(tile)[:, None]  # (T, S)
    everywhere = count(length)
    of_class, rank = everywhere % dilation, everywhere // dilation
    begin = (rank // tile * tile).minimum(members(of_class) - tile).clamp(min=0)
    return Axis(
        queries=(query.minimum(size - 1) * dilation + remainder).clamp(min=0).flatten(0, 1),
        keys=position.flatten(0, 1),
        inside=inside.flatten(0, 1),
        taps=(key[..., None, :] - start[..., None]).flatten(0, 1),
        offsets=(key[..., None, :] - query[..., None]).flatten(0, 1) if within else offsets[None],
        order=(of_class * tiles + rank // tile) * tile + rank - begin,
    )


def extent(length: int, kernel: int, dilation: int, border: str, tile: int) -> tuple[int, int]:
    """How many tiles a class has, and how many keys each reaches."""
    longest = (length + dilation - 1) // dilation  # positions of the first, longest class
    tiles, reach = (longest + tile - 1) // tile, tile + kernel - 1
    if not is_known(length):  # a count that may be 1 would tie an export to larger maps
        return torch.sym_max(tiles, 2), reach
    return tiles, min(reach, longest) if border in ("shift", "mask") else reach


def places(row: Tensor, col: Tensor, width: int) -> Tensor:
    """``(nh, X), (nw, Y) -> (nh, nw, X*Y)``: where in the flattened map."""
    return (row[:, None, :, None] * width + col[None, :, None, :]).flatten(2)


def combine(row: Tensor, col: Tensor) -> Tensor:
    """``(nh, Sh), (nw, Sw) -> (nh, nw, s)``: both hold."""
    return (row[:, None, :, None] & col[None, :, None, :]).flatten(2)


def outer(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """``(nh, Th, Sh), (nw, Tw, Sw)``, each shaped to broadcast to ``(nh, nw, Th, Tw, Sh, Sw)``."""
    return row[:, None, :, None, :, None], col[None, :, None, :, None, :]


def seen_keys(rows: Axis, cols: Axis, kernel: Sequence[int]) -> Tensor:
    """Which keys of its tile lie in a query's window: ``(nh, nw, t, s)``."""
    row, col = outer(
        (rows.taps >= 0) & (rows.taps < kernel[0]), (cols.taps >= 0) & (cols.taps < kernel[1])
    )
    return (row & col).flatten(4).flatten(2, 3)


def taps(rows: Axis, cols: Axis, kernel: Sequence[int]) -> Tensor:
    """Each key's tap in each query's window, brought into range: ``(nh, nw, t, s)``."""
    row, col = outer(rows.taps.clamp(0, kernel[0] - 1), cols.taps.clamp(0, kernel[1] - 1))
    return (row * kernel[1] + col).flatten(4).flatten(2, 3)


def looked_up(table: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """A relative table ``(h, 2*kh-1, 2*kw-1)`` looked up: ``(h, nh, nw, t, s)``.

    Where all tiles of an axis are alike, its n is 1.
    """
    last = (table.shape[1] - 1, table.shape[2] - 1)
    row = (rows.offsets + last[0] // 2).clamp(0, last[0])  # (nh, Th, Sh)
    col = (cols.offsets + last[1] // 2).clamp(0, last[1])
    values = table.index_select(1, row.flatten()).index_select(2, col.flatten())
    values = values.unflatten(2, col.shape).unflatten(1, row.shape)  # (h, nh, Th, Sh, nw, Tw, Sw)
    return values.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
