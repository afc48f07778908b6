"""Local attention in the form that is exported: few large steps that every runtime does fast.

Equals ``reference.py``. As in ``portable.py`` a tile of queries meets all keys that its windows can
reach in one dense product. Around the products three things differ:

* One gather of rows brings queries, keys or values into tiles and heads, and one the output back.
  Borders and dilation are a matter of the gathers' index, which hangs on the map's size alone: with
  a fixed size it is a constant, as the mask is.
* Tiles are small (4x4 for windows of 7x7), and a small map is a tile of its own.
* The softmax is written out, and no weight falls below ``exp(-80)``. Weights of masked keys would
  be denormal numbers, with which ONNX Runtime's softmax takes ten times as long; in float32 sums
  neither counts.

A NaN or an infinity in a key or value may reach other queries of its tile. A query all of whose
keys a bias of ``-inf`` hides gets NaN.

Legend: B batch, H x W map, h heads, D channels of a head; n tiles of t = Th * Tw queries, each
reaching s = Sh * Sw keys.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.layout import is_known
from foveate.ops.local._arguments import Arguments
from foveate.ops.local._tiles import (
    Axis,
    combine,
    extent,
    looked_up,
    outer,
    places,
    plan,
    taps,
)

_LEAST = -80.0


def local_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and log-sum-exp ``(B, H, W, h)``; no dropout, no key mask."""
    _, height, width, heads, _ = a.q.shape
    rows, cols = (
        plan(a.q.shape[1 + i], a.kernel_size[i], a.dilation[i], a.border, tile, a.q.device)
        for i, tile in enumerate(_tile(a))
    )
    key_places = places(rows.keys, cols.keys, width)
    if a.border == "zero":  # vectors of zeros behind the map serve all places outside
        key_places = key_places.where(combine(rows.inside, cols.inside), height * width)
    of_queries = _of_heads(places(rows.queries, cols.queries, width), heads)  # (n, h, t)
    of_keys = _of_heads(key_places, heads)  # (n, h, s)
    q = _rows(a.q, of_queries)  # (B, n, h, t, D)
    k, v = (_rows(x, of_keys, zeros=a.border == "zero") for x in (a.k, a.v))

    logits = (q * a.scale) @ k.mT  # (B, n, h, t, s)
    if logits.dtype is not torch.float64:
        logits = logits.float()
    if a.bias is not None and a.bias.dim() != 3:
        index = taps(rows, cols, a.kernel_size).flatten(0, 1)[:, None]  # (n, 1, t, s)
        bias = _rows(a.bias.flatten(-2), of_queries)  # (B, n, h, t, kh*kw)
        logits = logits + bias.gather(-1, index.expand(logits.shape))
    added = _mask(a, rows, cols, torch.finfo(a.q.dtype).min / 4).to(logits.dtype)
    if a.bias is not None and a.bias.dim() == 3:
        added = added + looked_up(a.bias, rows, cols).flatten(1, 2).transpose(0, 1)
    logits = logits + added

    top = logits.amax(-1, keepdim=True)
    weights = (logits - top).clamp(min=_LEAST).exp()
    total = weights.sum(-1, keepdim=True)
    out = weights.to(v.dtype) @ v / total.to(v.dtype)  # (B, n, h, t, Dv)
    back = _places_in_tiles(rows, cols, heads)  # (H, W, h)
    out, lse = (
        x.flatten(1, 3).index_select(1, back.flatten()).unflatten(1, back.shape)
        for x in (out, top + total.log())
    )
    return out, lse.squeeze(-1)


def _tile(a: Arguments) -> tuple[int, int]:
    """Queries of a tile, down and across, for which a map costs least.

    A key brought into a tile costs as much as its products with 17 queries (measured).
    """
    fixed = 17
    axes = []
    for length, kernel, dilation in zip(a.q.shape[1:3], a.kernel_size, a.dilation, strict=True):
        known = is_known(length)
        found = []
        for tile in range(1, (min(-(-length // dilation), 32) if known else 16) + 1):
            tiles, reach = extent(length, kernel, dilation, a.border, tile)
            found.append((tile, tiles if known else 1 / tile, reach))
        axes.append(found)

    def cost(sides: tuple) -> float:
        (high, down, row), (wide, across, column) = sides
        return down * across * row * column * (high * wide + fixed)

    (high, *_), (wide, *_) = min(product(*axes), key=cost)
    return high, wide


def _of_heads(tiles: Tensor, heads: int) -> Tensor:
    """``(nh, nw, X)`` places of the map to ``(n, h, X)`` rows of all its heads."""
    tiles = tiles.flatten(0, 1)[:, None]
    return tiles * heads + torch.arange(heads, device=tiles.device)[:, None]


def _rows(x: Tensor, index: Tensor, *, zeros: bool = False) -> Tensor:
    """``(B, H, W, h, D)`` by rows of ``(n, h, X)``: ``(B, n, h, X, D)``; zeros may be behind."""
    x = x.clone(memory_format=torch.contiguous_format).flatten(1, 3)
    if zeros:
        x = F.pad(x, (0, 0, 0, index.shape[1]))
    return x.index_select(1, index.flatten()).unflatten(1, index.shape)


def _mask(a: Arguments, rows: Axis, cols: Axis, never: float) -> Tensor:
    """``(n, 1, t, s)``: 0 where a query sees a key, otherwise ``never``, or twice that."""

    def along(axis: Axis, kernel: int) -> Tensor:
        seen = (axis.taps >= 0) & (axis.taps < kernel)
        if a.border == "mask":
            seen = seen & axis.inside[:, None]
        return torch.where(seen, 0.0, never)  # (n, T, S)

    row, col = outer(along(rows, a.kernel_size[0]), along(cols, a.kernel_size[1]))
    return (row + col).flatten(4).flatten(2, 3).flatten(0, 1)[:, None]


def _places_in_tiles(rows: Axis, cols: Axis, heads: int) -> Tensor:
    """``(H, W, h)``: where each query's result lies among ``(n, h, t)``."""
    (high, wide), across = (rows.queries.shape[1], cols.queries.shape[1]), cols.queries.shape[0]
    number = rows.order[:, None] // high * across + cols.order // wide  # (H, W)
    place = rows.order[:, None] % high * wide + cols.order % wide
    head = torch.arange(heads, device=place.device)
    return (number[..., None] * heads + head) * (high * wide) + place[..., None]
