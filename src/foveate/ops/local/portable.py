"""Local attention in plain PyTorch, the fast portable form: on any device, differentiable.

Equals ``reference.py``. The map is cut into small tiles of queries. All keys that the windows of
one tile can reach lie in one block a little larger than the tile, so a tile is one dense product,
masked to each query's own window.

The tiles go through ``F.scaled_dot_product_attention`` where only the output is wanted, and
otherwise through a softmax written out. A NaN or an infinity in a key or value reaches the queries
whose windows hold it. Products with the rest of its tile would make NaN of a weight of zero, so on
a CPU keys and values are looked through first, and what is not finite is put in after the products.
In an exported program, inside ``torch.func`` transforms and on other devices, where no step may
depend on values, it may reach other queries of its tile.

Legend: B batch, H x W map, h heads, D channels of a head; per axis n tiles, T queries of a tile,
S keys that a tile can reach; t = Th*Tw, s = Sh*Sw.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.ops import _dropout
from foveate.ops._torch import in_transform
from foveate.ops.local._arguments import Arguments
from foveate.ops.local._tiles import (
    Axis,
    combine,
    looked_up,
    places,
    plan,
    seen_keys,
    taps,
)


def local_attention(a: Arguments, *, with_lse: bool = True) -> tuple[Tensor, Tensor | None]:
    """Output ``(B, H, W, h, Dv)`` and log-sum-exp ``(B, H, W, h)`` of checked arguments.

    ``with_lse=False`` is for one who wants neither the log-sum-exp, then ``None``, nor second
    derivatives. It is faster without dropout or a bias of one number a query and tap, except in
    float64.
    """
    q, k, v, kernel_size, bias, border, key_mask = (
        a.q, a.k, a.v, a.kernel_size, a.bias, a.border, a.key_mask
    )  # fmt: skip
    rows = _axis(q.shape[1], kernel_size[0], a.dilation[0], border, q.device)
    cols = _axis(q.shape[2], kernel_size[1], a.dilation[1], border, q.device)
    if key_mask is not None:  # what a masked key holds must not matter, not even a NaN
        k = k.where(key_mask[..., None, None], 0)
        v = v.where(key_mask[..., None, None], 0)
    spoiled = _hold_no_numbers(k, v)
    q_places = places(rows.queries, cols.queries, q.shape[2])  # (nh, nw, t)
    k_places = places(rows.keys, cols.keys, q.shape[2])  # (nh, nw, s)
    inside = combine(rows.inside, cols.inside)  # (nh, nw, s)
    if border == "zero":  # one zero vector behind the map serves all places outside
        k_places = k_places.where(inside, q.shape[1] * q.shape[2])
    q_tiles = _tiles(q, q_places)  # (B, h, nh, nw, t, D)
    k_tiles = _tiles(k, k_places, behind=border == "zero")  # (B, h, nh, nw, s, D)
    v_tiles = _tiles(v, k_places, behind=border == "zero")
    seen = seen_keys(rows, cols, kernel_size)  # (nh, nw, t, s)
    if border == "mask":
        seen = seen & inside[:, :, None]
    if key_mask is not None:
        masked = _tiles(~key_mask[..., None, None], k_places, behind=border == "zero")
        seen = seen & ~masked.mT  # (B, 1, nh, nw, t, s)

    per_query = bias is not None and bias.dim() != 3
    if not (with_lse or a.dropout_p or per_query or spoiled or q.dtype is torch.float64):
        table = None if bias is None else looked_up(bias.to(q.dtype), rows, cols)
        out = _fused(q_tiles, k_tiles, v_tiles, table, a.scale, seen)
        if table is not None:  # whose -inf hide keys as well
            seen = seen & (table != float("-inf"))
        if key_mask is not None or table is not None:
            out = out.where(seen.any(-1, keepdim=True), 0)
        return _untile(out, rows, cols), None

    if spoiled:
        no_keys = ~k_tiles.isfinite().all(-1)[..., None, :]  # (B, h, nh, nw, 1, s)
        k_tiles = k_tiles.where(no_keys.logical_not().mT, 0)
    logits = (q_tiles * a.scale) @ k_tiles.mT  # (B, h, nh, nw, t, s)
    if spoiled:
        logits = logits.masked_fill(no_keys, float("nan"))
    if logits.dtype != torch.float64:
        logits = logits.float()
    if per_query:
        per_tap = _tiles(bias.flatten(-2), q_places)  # (B, h, nh, nw, t, kh*kw)
        index = taps(rows, cols, kernel_size).expand(logits.shape)
        logits = logits + per_tap.gather(-1, index)
    elif bias is not None:
        logits = logits + looked_up(bias, rows, cols)
    logits = logits.masked_fill(~seen, float("-inf"))

    top = logits.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == float("-inf"), 0)
    weights = (logits - top).exp()
    total = weights.sum(-1, keepdim=True)  # (B, h, nh, nw, t, 1)
    some = total != 0  # a NaN is some
    total = total.masked_fill(~some, 1)
    if a.dropout_p:
        query = _numbers(rows, cols, q.shape[0], q.shape[2], q.shape[3])  # (B, h, nh, nw, t, 1)
        kept = _dropout.kept(a.seed, query, taps(rows, cols, kernel_size), a.dropout_p)
        weights = weights.where(kept, 0) * (1 / (1 - a.dropout_p))
    weights = weights.to(v.dtype)
    sums = _sums_of_any(weights, v_tiles, seen) if spoiled else weights @ v_tiles
    out = sums / total.to(v.dtype)  # (B, h, nh, nw, t, Dv)
    lse = (top + total.log()).masked_fill(~some, float("-inf"))
    return _untile(out, rows, cols), _untile(lse, rows, cols).squeeze(-1)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, scale: float, seen: Tensor
) -> Tensor:
    """Attention of tiles ``(B, h, nh, nw, t, D)`` to keys that are seen.

    A query that sees none gets some finite vector: ``-inf`` would make it NaN in some backends.
    """
    never = torch.finfo(q.dtype).min / 2
    added = (~seen).to(q.dtype) * never if table is None else table.masked_fill(~seen, never)
    added = added.expand(*[1] * (6 - added.dim()), *added.shape)
    added = added.expand(-1, *q.shape[1:4], -1, -1).flatten(1, 3)  # (1 or B, h*nh*nw, t, s)
    tiles = (x.flatten(1, 3) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*tiles, attn_mask=added, scale=scale)
    return out.unflatten(1, q.shape[1:4])


def _hold_no_numbers(k: Tensor, v: Tensor) -> bool:
    """Whether a NaN or an infinity is among keys and values, where that can be asked."""
    if k.device.type != "cpu" or torch.compiler.is_compiling() or in_transform():
        return False
    # A sum is the cheapest question. It may overflow, which only takes the slower way.
    precise = torch.promote_types(k.dtype, torch.float32)
    return not all(x.detach().sum(dtype=precise).isfinite() for x in (k, v))


def _sums_of_any(weights: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """``weights @ v`` for values that need not be finite, which reach those alone who see them."""
    out = weights @ v.where(v.isfinite(), 0)
    for special in (float("inf"), float("-inf")):
        found = weights.detach() @ (v == special).to(v.dtype) > 0
        out = torch.where(found, out + special, out)
    found = seen.to(v.dtype) @ v.isnan().to(v.dtype) > 0
    return out.masked_fill(found, float("nan"))


def _axis(length: int, kernel: int, dilation: int, border: str, device: torch.device) -> Axis:
    longest = (length + dilation - 1) // dilation
    return plan(length, kernel, dilation, border, _tile(kernel, longest), device)


def _tile(kernel: int, length: int) -> int:
    """How many queries of an axis to take at once.

    Large tiles waste products on keys outside a query's window, small ones gather every key more
    often. Along an axis with n tiles of T queries and S keys, products cost n*T*S and gathering
    n*S times a constant, measured.
    """
    gathering = 9

    def cost(tile: int) -> float:
        tiles = -(-length // tile) if isinstance(length, int) else 1 / tile
        return tiles * (tile + kernel - 1) * (tile + gathering)

    longest = min(length, 16) if isinstance(length, int) else 16
    return min(range(min(4, longest), longest + 1), key=cost)


def _tiles(x: Tensor, places: Tensor, *, behind: bool = False) -> Tensor:
    """``(B, H, W, h, D) -> (B, h, nh, nw, t, D)``; with a zero vector ``behind`` the map."""
    x = x.permute(0, 3, 1, 2, 4).flatten(2, 3)  # (B, h, H*W, D)
    if behind:
        x = torch.cat([x, x.new_zeros((*x.shape[:2], 1, x.shape[3]))], 2)
    return x.index_select(2, places.flatten()).unflatten(2, places.shape)


def _untile(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """``(B, h, nh, nw, t, D) -> (B, H, W, h, D)``."""
    high, wide = rows.queries.shape[1], cols.queries.shape[1]
    tile = rows.order[:, None] // high * x.shape[3] + cols.order // wide
    place = rows.order[:, None] % high * wide + cols.order % wide  # (H, W)
    x = x.flatten(2, 4).index_select(2, (tile * (high * wide) + place).flatten())
    return x.unflatten(2, tile.shape).permute(0, 2, 3, 1, 4)


def _numbers(rows: Axis, cols: Axis, batch: int, width: int, heads: int) -> Tensor:
    """Every query's number, ``((b * H + y) * W + x) * heads + head``: ``(B, h, nh, nw, t, 1)``."""
    height = rows.order.shape[0]
    row, col = rows.queries[:, None, :, None], cols.queries[:, None, :]  # (nh, nw, Th, Tw)
    image = torch.arange(batch, device=row.device)[:, None, None, None, None, None]
    head = torch.arange(heads, device=row.device)[:, None, None, None, None]
    return (((image * height + row) * width + col) * heads + head).flatten(4)[..., None]
