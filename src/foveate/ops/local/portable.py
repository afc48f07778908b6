"""Local attention in plain PyTorch: what it means, on any device, differentiable, exportable.

The map is cut into small tiles of queries. All keys that the windows of one tile can reach lie in
one block a little larger than the tile, so a tile is one dense product, masked to each query's
own window. Both axes are planned alone (:class:`_Axis`) and combined. With a dilation ``d`` the
positions of equal remainder modulo ``d`` form a class; tiles and windows stay within a class.

Legend: B batch, H x W map, h heads, D channels of a head; per axis n tiles, T queries of a tile,
S keys that a tile can reach; t = Th*Tw, s = Sh*Sw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.ops import _dropout


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and log-sum-exp ``(B, H, W, h)`` of checked arguments."""
    height, width, heads = q.shape[1:4]
    rows = _plan(height, kernel_size[0], dilation[0], border, q.device)
    cols = _plan(width, kernel_size[1], dilation[1], border, q.device)

    q_tiles = _tiles(q, rows.queries, cols.queries)  # (B, nh, nw, h, t, D)
    k_tiles = _tiles(k, rows.keys, cols.keys)  # (B, nh, nw, h, s, D)
    v_tiles = _tiles(v, rows.keys, cols.keys)
    slots, seen = _slots(rows, cols, kernel_size)  # (nh, nw, t, s)
    if border == "zero":
        inside = _combine(rows.inside, cols.inside)[:, :, None, :, None]  # (nh, nw, 1, s, 1)
        k_tiles = k_tiles.where(inside, 0)
        v_tiles = v_tiles.where(inside, 0)
    if border == "mask":
        seen = seen & _combine(rows.inside, cols.inside)[:, :, None]
    seen = seen[:, :, None]  # (nh, nw, 1, t, s)

    logits = (q_tiles * scale) @ k_tiles.mT  # (B, nh, nw, h, t, s)
    if logits.dtype != torch.float64:
        logits = logits.float()
    if bias is not None and bias.dim() == 3:
        logits = logits + _table(bias, rows, cols)
    elif bias is not None:
        per_slot = _tiles(bias.flatten(-2), rows.queries, cols.queries)  # (B, nh, nw, h, t, kh*kw)
        index = slots[:, :, None].expand(logits.shape)
        logits = logits + per_slot.gather(-1, index)
    if key_mask is not None:
        allowed = _tiles(key_mask[..., None, None], rows.keys, cols.keys).mT  # (B, nh, nw, 1, 1, s)
        if border == "zero":
            allowed = allowed | ~_combine(rows.inside, cols.inside)[:, :, None, None]
        seen = seen & allowed
    logits = logits.masked_fill(~seen, float("-inf"))

    top = logits.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == float("-inf"), 0)
    weights = (logits - top).exp()
    total = weights.sum(-1, keepdim=True)  # (B, nh, nw, h, t, 1)
    some = total > 0
    total = total.masked_fill(~some, 1)
    if dropout_p:
        query = _numbers(rows, cols, q.shape[0], width, heads)  # (B, nh, nw, h, t, 1)
        kept = _dropout.kept(seed, query, slots[:, :, None], dropout_p)
        weights = weights.where(kept, 0) * (1 / (1 - dropout_p))
    out = weights.to(v.dtype) @ v_tiles / total.to(v.dtype)  # (B, nh, nw, h, t, Dv)
    lse = (top + total.log()).masked_fill(~some, float("-inf"))
    return _untile(out, rows, cols), _untile(lse, rows, cols).squeeze(-1)


@dataclass(frozen=True)
class _Axis:
    """One axis cut into n tiles of T queries, each reaching S keys."""

    queries: Tensor  # (n, T) positions; tiles beyond the end repeat the last
    keys: Tensor  # (n, S) positions within the map
    inside: Tensor  # (n, S) False where the key lies outside the map
    slots: Tensor  # (n, T, S) which slot of the query's window the key is; may be out of range
    offsets: Tensor  # (n, T, S) (key - query) / dilation
    order: Tensor  # (length,) where each position's result lies among the n * T


def _plan(length: int, kernel: int, dilation: int, border: str, device: torch.device) -> _Axis:
    def count(stop: int) -> Tensor:
        return torch.arange(stop, device=device)

    longest = (length + dilation - 1) // dilation  # positions of the first, longest class
    tile = max(kernel, 4)
    if isinstance(length, int):
        tile = min(tile, longest)
        tiles = (longest + tile - 1) // tile
    else:  # one more than needed: a count that may be 1 would tie an export to larger maps
        tiles = (longest + tile - 1) // tile + 1
    remainder = count(dilation)[:, None, None]  # (d, 1, 1)
    members = (length + dilation - 1 - remainder) // dilation  # (d, 1, 1) positions of the class
    query = count(tiles)[:, None] * tile + count(tile)
    query = query.minimum(members - 1)  # (d, n, T), counted within the class
    start = query - kernel // 2
    if border == "shift":
        start = start.clamp(min=0).minimum(members - kernel)
    key = start[..., :1] + count(tile + kernel - 1)  # (d, n, S)
    position = key * dilation + remainder
    inside = (position >= 0) & (position < length)
    if border == "reflect":
        position = position.abs()
        position = length - 1 - (length - 1 - position).abs()
    position = position.clamp(0, length - 1)
    everywhere = count(length)
    return _Axis(
        queries=(query * dilation + remainder).clamp(min=0).flatten(0, 1),
        keys=position.flatten(0, 1),
        inside=inside.flatten(0, 1),
        slots=(key[..., None, :] - start[..., None]).flatten(0, 1),
        offsets=(key[..., None, :] - query[..., None]).flatten(0, 1),
        order=everywhere % dilation * (tiles * tile) + everywhere // dilation,
    )


def _tiles(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """``(B, H, W, h, D) -> (B, nh, nw, h, rows*cols of a tile, D)``."""
    x = x.index_select(1, rows.flatten()).index_select(2, cols.flatten())
    x = x.unflatten(2, cols.shape).unflatten(1, rows.shape)  # (B, nh, Th, nw, Tw, h, D)
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)


def _untile(x: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
    """``(B, nh, nw, h, t, D) -> (B, H, W, h, D)``."""
    x = x.unflatten(4, (rows.queries.shape[1], cols.queries.shape[1]))
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)  # (B, nh*Th, nw*Tw, h, D)
    return x.index_select(1, rows.order).index_select(2, cols.order)


def _combine(row: Tensor, col: Tensor) -> Tensor:
    """``(nh, Sh), (nw, Sw) -> (nh, nw, s)``: both hold."""
    return (row[:, None, :, None] & col[None, :, None, :]).flatten(2)


def _outer(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """``(nh, Th, Sh), (nw, Tw, Sw)``, each shaped to broadcast to ``(nh, nw, Th, Tw, Sh, Sw)``."""
    return row[:, None, :, None, :, None], col[None, :, None, :, None, :]


def _slots(rows: _Axis, cols: _Axis, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Each key's slot in each query's window, in range, and whether it is in the window."""
    row, col = _outer(rows.slots, cols.slots)
    seen = (row >= 0) & (row < kernel[0]) & (col >= 0) & (col < kernel[1])
    slots = row.clamp(0, kernel[0] - 1) * kernel[1] + col.clamp(0, kernel[1] - 1)
    return slots.flatten(4).flatten(2, 3), seen.flatten(4).flatten(2, 3)


def _table(table: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
    """A relative table ``(h, 2*kh-1, 2*kw-1)`` looked up: ``(nh, nw, h, t, s)``."""
    last = (table.shape[1] - 1, table.shape[2] - 1)
    row = (rows.offsets + last[0] // 2).clamp(0, last[0])  # (nh, Th, Sh)
    col = (cols.offsets + last[1] // 2).clamp(0, last[1])
    values = table.index_select(1, row.flatten()).index_select(2, col.flatten())
    values = values.unflatten(2, col.shape).unflatten(1, row.shape)  # (h, nh, Th, Sh, nw, Tw, Sw)
    return values.permute(1, 4, 0, 2, 5, 3, 6).flatten(5).flatten(3, 4)


def _numbers(rows: _Axis, cols: _Axis, batch: int, width: int, heads: int) -> Tensor:
    """Every query's number, ``((b * H + y) * W + x) * heads + head``: ``(B, nh, nw, h, t, 1)``."""
    height = rows.order.shape[0]
    row, col = rows.queries[:, None, None, :, None], cols.queries[None, :, None, None, :]
    image = torch.arange(batch, device=row.device)[:, None, None, None, None, None]
    head = torch.arange(heads, device=row.device)[:, None, None]
    return (((image * height + row) * width + col) * heads + head).flatten(4)[..., None]
