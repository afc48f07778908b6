"""Local attention on GPUs: Triton kernels, forward and backward.

A program has one head of one image and a tile of queries. The keys that the windows of its queries
reach form a rectangle, the tile's halo, which is read in blocks of keys in row-major order, in
place; a block is a dense product, masked to each query's own window, and meets the others in a
running softmax. Borders decide where a window starts, which part of the halo is read, and whether
what lies outside is attended; a dilated map is handled class by class.

Backward recomputes the probabilities from the log-sum-exp. Queries' gradients come by tiles of
queries; keys' and values' by tiles of keys, each of which visits the queries that see it: nothing
is added atomically, and equal inputs give equal gradients. Under ``border="reflect"`` the tiles of
keys cover the mirrored surroundings too, whose gradients are folded back afterwards. The gradient
of a relative table is summed offset by offset within each tile, then over tiles.

Logits are kept in powers of two. Names: y, x are positions of queries within their class, ky, kx
of keys (negative or beyond the class where they lie outside); M cells of a tile, N of a block.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops import _triton
from foveate.ops._dropout import threshold
from foveate.ops._triton import (
    cells_of,
    dropped,
    load_rows,
    number_of,
    offset_of,
    store_rows,
    tile_of,
)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(2**29)  # where no window is and no key

_KEY = ("D", "DV", "KH", "KW", "DIL_H", "DIL_W", "BORDER", "BIAS")


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, as the portable form gives them."""
    out = v.new_empty((*q.shape[:4], v.shape[4]))
    lse = q.new_empty(q.shape[:4], dtype=torch.float32)
    settings = (kernel_size, dilation, bias, scale, border, key_mask, dropout_p, seed)
    if q.shape[0]:
        arguments = _arguments(q, k, v, *settings) | {"out": out, "lse": lse}
        _triton.launch(_forward, _triton.tiles(q, dilation), _configs(q, v), _KEY, arguments)
    return out, lse


def local_attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    bias_grad: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and, if asked, of the bias; else an empty tensor in its place."""
    margin = [size - 1 if border == "reflect" else 0 for size in kernel_size]
    grown = [
        length + more * step
        for length, more, step in zip(q.shape[1:3], margin, dilation, strict=True)
    ]
    dq = q.new_empty(q.shape)
    dk = k.new_empty((k.shape[0], *grown, *k.shape[3:]))
    dv = v.new_empty((v.shape[0], *grown, *v.shape[3:]))
    delta = torch.empty_like(lse)
    # Slots that may not be attended are never written.
    d_bias = bias.new_zeros(bias.shape) if bias_grad else q.new_empty(0)
    d_each = d_bias if bias_grad and bias.dim() == 6 else None
    if q.shape[0]:
        arguments = _arguments(
            q, k, v, kernel_size, dilation, bias, scale, border, key_mask, dropout_p, seed
        ) | {"grad": grad_out.contiguous(), "lse": lse, "delta": delta}
        _triton.launch(
            _query_gradients, _triton.tiles(q, dilation), _configs(q, v), _KEY,
            arguments | {
                "out": out, "dq": dq, "d_each": d_each,
                "grad_lse": None if grad_lse is None else grad_lse.contiguous(),
            },
        )  # fmt: skip
        _triton.launch(
            _key_gradients, _triton.tiles(q, dilation, margin), _configs(q, v, of_keys=True), _KEY,
            arguments | {"dk": dk, "dv": dv},
        )  # fmt: skip
        if bias_grad and bias.dim() == 3:
            d_bias = _table_gradient(q, bias, dilation, arguments)
    if border == "reflect":
        dk, dv = (_folded(x, kernel_size, dilation) for x in (dk, dv))
    return dq, dk, dv, d_bias


def _table_gradient(q: Tensor, table: Tensor, dilation: list[int], arguments: dict) -> Tensor:
    """The table's gradient, summed over the tiles' own."""
    parts = _triton.tiles(q, dilation)(_TABLE_CONFIGS[0].kwargs)
    partial = q.new_zeros((parts // q.shape[3], *table.shape), dtype=torch.float32)
    _triton.launch(
        _table_gradients,
        _triton.tiles(q, dilation),
        _TABLE_CONFIGS,
        _KEY,
        arguments | {"partial": partial},
    )
    return partial.sum(0).to(table.dtype)


def _arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> dict[str, Any]:
    """What every kernel is given."""
    strides = {
        f"{name}_{axis}": stride
        for name, x in (("q", q), ("k", k), ("v", v))
        for axis, stride in zip("byxhd", x.stride(), strict=True)
    }
    return strides | {
        "q": q,
        "k": k,
        "v": v,
        "bias": None if bias is None else bias.contiguous(),
        "key_mask": None if key_mask is None else key_mask.contiguous(),
        "seed": None if seed is None else seed.to(q.device),
        "H": q.shape[1],
        "W": q.shape[2],
        "heads": q.shape[3],
        "scale": scale,
        "threshold": threshold(dropout_p),
        "keep_scale": 1 / (1 - dropout_p),
        "D": q.shape[4],
        "DV": v.shape[4],
        "KH": kernel_size[0],
        "KW": kernel_size[1],
        "DIL_H": dilation[0],
        "DIL_W": dilation[1],
        "BORDER": border,
        "BIAS": "none" if bias is None else "table" if bias.dim() == 3 else "each",
        "PRECISION": _triton.precision(),
        "BLOCK_D": _triton.padded(q.shape[4]),
        "BLOCK_DV": _triton.padded(v.shape[4]),
    }


def _configs(q: Tensor, v: Tensor, *, of_keys: bool = False) -> tuple[triton.Config, ...]:
    """Tiles and blocks worth timing: those that registers and shared memory hold."""
    if _triton.INTERPRETED:
        return (_config(8, 4, 32, 1, 1),)
    weight = max(_triton.padded(q.shape[4]), _triton.padded(v.shape[4])) * q.element_size()
    if of_keys:  # two sums a cell
        weight *= 2
    if q.dtype is torch.float32:  # operands of its products lie in registers
        weight *= 2
    return next(configs for most, configs in _CONFIGS if weight <= most)


def _config(tile_h: int, tile_w: int, keys: int, warps: int, stages: int) -> triton.Config:
    sizes = {"TILE_H": tile_h, "TILE_W": tile_w, "KEYS": keys}
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


_CONFIGS = (
    (
        128,
        (
            _config(4, 8, 32, 2, 2),
            _config(4, 8, 32, 2, 3),
            _config(8, 8, 32, 4, 2),
            _config(8, 8, 64, 4, 2),
            _config(8, 8, 64, 4, 3),
            _config(8, 16, 32, 4, 2),
            _config(8, 16, 64, 8, 2),
        ),
    ),
    (
        256,
        (
            _config(4, 8, 32, 2, 2),
            _config(8, 8, 32, 4, 2),
            _config(8, 8, 32, 8, 2),
            _config(8, 8, 64, 8, 2),
            _config(8, 16, 32, 8, 2),
        ),
    ),
    (512, (_config(8, 8, 32, 8, 2), _config(4, 8, 32, 4, 2), _config(8, 8, 32, 4, 1))),
    (1024, (_config(4, 4, 16, 4, 2), _config(4, 8, 16, 4, 1), _config(4, 8, 32, 8, 2))),
    (4096, (_config(4, 4, 16, 4, 2), _config(4, 4, 16, 8, 1), _config(4, 8, 16, 8, 1))),
)


# One tile for all: the number of tiles is that of the partial sums.
_TABLE_CONFIGS = (triton.Config({"TILE_H": 8, "TILE_W": 8}, num_warps=4),)


def _folded(grad: Tensor, kernel: list[int], dilation: list[int]) -> Tensor:
    """What the gradient of a map and its mirrored surroundings sums to on the map."""
    dtype = grad.dtype
    for axis, (size, step) in enumerate(zip(kernel, dilation, strict=True), start=1):
        before, after = size // 2 * step, (size - 1 - size // 2) * step
        length = grad.shape[axis] - before - after
        first, middle, last = grad.split([before, length, after], axis)
        grad = middle.float()
        grad.narrow(axis, 1, before).add_(first.flip(axis))
        grad.narrow(axis, length - 1 - after, after).add_(last.flip(axis))
    return grad.to(dtype).contiguous()


# ---- geometry


@triton.jit
def _members(position, length, DILATION: tl.constexpr):
    """How many positions of an axis agree with ``position`` modulo the dilation."""
    return (length + DILATION - 1 - position) // DILATION


@triton.jit
def _block(first, rows, columns, top, left, SIZE: tl.constexpr):
    """The positions of ``SIZE`` cells of a rectangle, row by row from its cell ``first``.

    Also whether each is a cell of the rectangle. The division by ``columns`` is a multiplication,
    exact while ``rows * columns * columns`` stays below 2 ** 31.
    """
    cell = first + tl.arange(0, SIZE)
    inverse = ((2**31 - 1) // columns + 1).to(tl.uint32)  # of 2 ** 31, rounded up
    row = tl.umulhi((2 * cell).to(tl.uint32), inverse).to(tl.int32)
    return top + row, left + cell - row * columns, row < rows


@triton.jit
def _window(position, members, KERNEL: tl.constexpr, BORDER: tl.constexpr):
    """Where the window of a query starts."""
    start = position - KERNEL // 2
    if BORDER == "shift":
        start = tl.maximum(tl.minimum(start, members - KERNEL), 0)
    return start


@triton.jit
def _reach(first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, BORDER: tl.constexpr):
    """The first key that a tile's queries see, and how many from there to the last."""
    last = tl.minimum(first + TILE, members) - 1
    begin = _window(first, members, KERNEL, BORDER)
    end = _window(last, members, KERNEL, BORDER) + KERNEL
    if BORDER == "mask":
        begin = tl.maximum(begin, 0)
        end = tl.minimum(end, members)
    return begin, tl.maximum(end - begin, 0)


@triton.jit
def _witnesses(first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, BORDER: tl.constexpr):
    """The first query that sees one of a tile's keys, and how many from there to the last."""
    last = first + TILE - 1
    begin = first + KERNEL // 2 - (KERNEL - 1)
    end = last + KERNEL // 2 + 1
    if BORDER == "shift":  # the first and last windows serve all queries at the map's edge
        begin = tl.where(first < KERNEL, 0, begin)
        end = tl.where(last >= members - KERNEL, members, end)
    begin = tl.maximum(begin, 0)
    return begin, tl.maximum(tl.minimum(end, members) - begin, 0)


@triton.jit
def _on_map(position, remainder, length, DILATION: tl.constexpr, BORDER: tl.constexpr):
    """Where on the map a position of a class lies; outside it, ``< 0`` or ``>= length``."""
    place = position * DILATION + remainder
    if BORDER == "reflect":
        place = length - 1 - tl.abs(length - 1 - tl.abs(place))
    return place


@triton.jit
def _queries_at(
    q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
    q_b, q_y, q_x, q_h, q_d, H, W, heads,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """Vectors of the queries at (y, x), their numbers, and where their windows start.

    A query that is not there has a window that holds no key.
    """
    at = offset_of(image, y * DIL_H + class_y, x * DIL_W + class_x, head, q_b, q_y, q_x, q_h)
    vectors = load_rows(q, at, valid, q_d, D, BLOCK_D)
    number = number_of(image, y, x, head, class_y, class_x, H, W, heads, DIL_H, DIL_W)
    start_y = tl.where(valid, _window(y, members_y, KH, BORDER), FAR)
    return vectors, number, start_y, _window(x, members_x, KW, BORDER)


@triton.jit
def _keys_at(
    k, v, key_mask, ky, kx, there, image, head, class_y, class_x,
    k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """Keys and values at (ky, kx), zero where there are none; and ky, for comparisons.

    A key that may not be attended has moved out of every window; one that is not ``there`` lies
    in none, or belongs to no one's tile.
    """
    row = _on_map(ky, class_y, H, DIL_H, BORDER)
    column = _on_map(kx, class_x, W, DIL_W, BORDER)
    inside = there & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    if BORDER == "mask":
        ky = tl.where(inside, ky, -FAR)
    if key_mask is not None:
        place = (image.to(tl.int64) * H + row) * W + column
        allowed = tl.load(key_mask + place, mask=inside, other=1) != 0
        inside = inside & allowed
        ky = tl.where(allowed, ky, -FAR)
    at = offset_of(image, row, column, head, k_b, k_y, k_x, k_h)
    keys = load_rows(k, at, inside, k_d, D, BLOCK_D)
    at = offset_of(image, row, column, head, v_b, v_y, v_x, v_h)
    values = load_rows(v, at, inside, v_d, DV, BLOCK_DV)
    return keys, values, ky


@triton.jit
def _in_window(ky, kx, start_y, start_x, KH: tl.constexpr, KW: tl.constexpr):
    """Which keys lie in the windows that start there."""
    return ((ky - start_y).to(tl.uint32) < KH) & ((kx - start_x).to(tl.uint32) < KW)


# ---- logits


@triton.jit
def _slot(ky, kx, start_y, start_x, KW: tl.constexpr):
    """Which slot of a window a key is; one subtraction a pair."""
    return (ky * KW + kx) - (start_y * KW + start_x)


@triton.jit
def _logits(
    products, bias, seen, number, head, y, x, ky, kx, slot, scale,
    KH: tl.constexpr, KW: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Scaled and biased products in powers of two, ``-inf`` where a key is not seen."""
    logits = products * (scale * LOG2E)
    if BIAS == "table":
        ROW: tl.constexpr = 2 * KW - 1
        origin = (head * (2 * KH - 1) + KH - 1) * ROW + KW - 1
        place = (ky * ROW + kx + origin) - (y * ROW + x)
        logits += tl.load(bias + place, mask=seen, other=0.0).to(tl.float32) * LOG2E
    if BIAS == "each":
        place = number * (KH * KW) + slot
        logits += tl.load(bias + place, mask=seen, other=0.0).to(tl.float32) * LOG2E
    return tl.where(seen, logits, float("-inf"))


@triton.jit
def _log_sums(lse, number, valid):
    """Queries' log-sum-exps in powers of two; zero, not ``-inf``, for one without any key."""
    sums = tl.load(lse + number, mask=valid, other=0.0) * LOG2E
    return tl.where(sums == float("-inf"), 0.0, sums)


@triton.jit
def _softmax_gradient(
    logits, grad, lse, delta, seed, number, slot, threshold, keep_scale
):  # fmt: skip
    """Weights as they met the values, and the gradient of the logits.

    ``grad`` is that of the weights, ``delta`` what each query's weights sum it to; ``lse`` is in
    powers of two.
    """
    weights = tl.exp2(logits - lse)
    grad = dropped(grad, seed, number, slot, threshold, keep_scale)
    d_logits = weights * (grad - delta)
    return dropped(weights, seed, number, slot, threshold, keep_scale), d_logits


# ---- kernels


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _forward(
    q, k, v, bias, key_mask, seed, out, lse,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of a tile of queries."""
    image, head, class_y, class_x, top, left = tile_of(
        tl.program_id(0), heads, tl.cdiv(H, DIL_H), tl.cdiv(W, DIL_W), DIL_H, DIL_W, TILE_H, TILE_W
    )
    members_y, members_x = _members(class_y, H, DIL_H), _members(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = _queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip

    top, rows = _reach(top, members_y, TILE_H, KH, BORDER)
    left, columns = _reach(left, members_x, TILE_W, KW, BORDER)
    peak = tl.full((TILE_H * TILE_W,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_H * TILE_W,), tl.float32)
    mixed = tl.zeros((TILE_H * TILE_W, BLOCK_DV), tl.float32)
    for first in range(0, rows * columns, KEYS):
        ky, kx, there = _block(first, rows, columns, top, left, KEYS)
        keys, values, ky = _keys_at(
            k, v, key_mask, ky, kx, there, image, head, class_y, class_x,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
            D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
        )  # fmt: skip
        seen = _in_window(
            ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KH, KW
        )  # (M, N)
        slot = _slot(ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KW)
        logits = _logits(
            tl.dot(queries, tl.trans(keys), input_precision=PRECISION), bias, seen,
            number[:, None], head, y[:, None], x[:, None], ky[None, :], kx[None, :], slot,
            scale, KH, KW, BIAS,
        )  # fmt: skip
        higher = tl.maximum(peak, tl.max(logits, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - safe[:, None])
        shrink = tl.exp2(peak - safe)
        total = total * shrink + tl.sum(weights, 1)
        weights = dropped(weights, seed, number[:, None], slot, threshold, keep_scale)
        mixed = tl.dot(
            weights.to(values.dtype), values, mixed * shrink[:, None], input_precision=PRECISION
        )
        peak = higher

    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    store_rows(out, number * DV, valid, mixed, DV, BLOCK_DV)
    tl.store(lse + number, (peak + tl.log2(total)) * LN2, mask=valid)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _query_gradients(
    q, k, v, bias, key_mask, seed, grad, out, lse, delta, grad_lse, dq, d_each,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of queries and of their own biases; writes each query's delta."""
    image, head, class_y, class_x, top, left = tile_of(
        tl.program_id(0), heads, tl.cdiv(H, DIL_H), tl.cdiv(W, DIL_W), DIL_H, DIL_W, TILE_H, TILE_W
    )
    members_y, members_x = _members(class_y, H, DIL_H), _members(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = _queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip
    grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV)  # (M, DV)
    outs = load_rows(out, number * DV, valid, 1, DV, BLOCK_DV)
    sums = _log_sums(lse, number, valid)
    shares = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    if grad_lse is not None:
        shares -= tl.load(grad_lse + number, mask=valid, other=0.0)
    tl.store(delta + number, shares, mask=valid)

    top, rows = _reach(top, members_y, TILE_H, KH, BORDER)
    left, columns = _reach(left, members_x, TILE_W, KW, BORDER)
    d_queries = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
    for first in range(0, rows * columns, KEYS):
        ky, kx, there = _block(first, rows, columns, top, left, KEYS)
        keys, values, ky = _keys_at(
            k, v, key_mask, ky, kx, there, image, head, class_y, class_x,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
            D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
        )  # fmt: skip
        seen = _in_window(
            ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KH, KW
        )  # (M, N)
        slot = _slot(ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KW)
        logits = _logits(
            tl.dot(queries, tl.trans(keys), input_precision=PRECISION), bias, seen,
            number[:, None], head, y[:, None], x[:, None], ky[None, :], kx[None, :], slot,
            scale, KH, KW, BIAS,
        )  # fmt: skip
        _, d_logits = _softmax_gradient(
            logits, tl.dot(grads, tl.trans(values), input_precision=PRECISION),
            sums[:, None], shares[:, None], seed, number[:, None], slot,
            threshold, keep_scale,
        )  # fmt: skip
        if d_each is not None:
            place = number[:, None] * (KH * KW) + slot
            tl.store(d_each + place, d_logits.to(d_each.dtype.element_ty), mask=seen)
        d_queries = tl.dot(d_logits.to(keys.dtype), keys, d_queries, input_precision=PRECISION)

    store_rows(dq, number * D, valid, d_queries * scale, D, BLOCK_D)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _key_gradients(
    q, k, v, bias, key_mask, seed, grad, lse, delta, dk, dv,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values; products here lie (keys M, queries N)."""
    MARGIN_H: tl.constexpr = KH - 1 if BORDER == "reflect" else 0
    MARGIN_W: tl.constexpr = KW - 1 if BORDER == "reflect" else 0
    BEFORE_H: tl.constexpr = KH // 2 if BORDER == "reflect" else 0
    BEFORE_W: tl.constexpr = KW // 2 if BORDER == "reflect" else 0
    image, head, class_y, class_x, top, left = tile_of(
        tl.program_id(0), heads, tl.cdiv(H, DIL_H) + MARGIN_H, tl.cdiv(W, DIL_W) + MARGIN_W,
        DIL_H, DIL_W, TILE_H, TILE_W,
    )  # fmt: skip
    members_y, members_x = _members(class_y, H, DIL_H), _members(class_x, W, DIL_W)
    cell_y, cell_x = cells_of(top, left, TILE_H, TILE_W)  # on the grown map
    ours = (cell_y < members_y + MARGIN_H) & (cell_x < members_x + MARGIN_W)
    ky, kx = cell_y - BEFORE_H, cell_x - BEFORE_W
    keys, values, ky = _keys_at(
        k, v, key_mask, ky, kx, ours, image, head, class_y, class_x,
        k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
        D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
    )  # fmt: skip

    top, rows = _witnesses(top - BEFORE_H, members_y, TILE_H, KH, BORDER)
    left, columns = _witnesses(left - BEFORE_W, members_x, TILE_W, KW, BORDER)
    d_keys = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
    d_values = tl.zeros((TILE_H * TILE_W, BLOCK_DV), tl.float32)
    for first in range(0, rows * columns, KEYS):
        y, x, valid = _block(first, rows, columns, top, left, KEYS)
        queries, number, start_y, start_x = _queries_at(
            q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
            q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
        )  # fmt: skip
        grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV)
        sums = _log_sums(lse, number, valid)
        shares = tl.load(delta + number, mask=valid, other=0.0)
        seen = _in_window(
            ky[:, None], kx[:, None], start_y[None, :], start_x[None, :], KH, KW
        )  # (M, N)
        slot = _slot(ky[:, None], kx[:, None], start_y[None, :], start_x[None, :], KW)
        logits = _logits(
            tl.dot(keys, tl.trans(queries), input_precision=PRECISION), bias, seen,
            number[None, :], head, y[None, :], x[None, :], ky[:, None], kx[:, None], slot,
            scale, KH, KW, BIAS,
        )  # fmt: skip
        weights, d_logits = _softmax_gradient(
            logits, tl.dot(values, tl.trans(grads), input_precision=PRECISION),
            sums[None, :], shares[None, :], seed, number[None, :], slot,
            threshold, keep_scale,
        )  # fmt: skip
        d_values = tl.dot(weights.to(grads.dtype), grads, d_values, input_precision=PRECISION)
        d_keys = tl.dot(d_logits.to(queries.dtype), queries, d_keys, input_precision=PRECISION)

    grown_h, grown_w = H + MARGIN_H * DIL_H, W + MARGIN_W * DIL_W
    place = number_of(
        image, cell_y, cell_x, head, class_y, class_x, grown_h, grown_w, heads, DIL_H, DIL_W
    )
    store_rows(dk, place * D, ours, d_keys * scale, D, BLOCK_D)
    store_rows(dv, place * DV, ours, d_values, DV, BLOCK_DV)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _table_gradients(
    q, k, v, bias, key_mask, seed, grad, lse, delta, partial,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """A tile's share of the table's gradient: all its queries meet one offset at a time."""
    image, head, class_y, class_x, top, left = tile_of(
        tl.program_id(0), heads, tl.cdiv(H, DIL_H), tl.cdiv(W, DIL_W), DIL_H, DIL_W, TILE_H, TILE_W
    )
    members_y, members_x = _members(class_y, H, DIL_H), _members(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = _queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip
    grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV).to(tl.float32)
    queries = queries.to(tl.float32)
    sums = _log_sums(lse, number, valid)
    shares = tl.load(delta + number, mask=valid, other=0.0)

    # A window starts further back from its query the further down the map it lies.
    last_y = tl.minimum(top + TILE_H, members_y) - 1
    last_x = tl.minimum(left + TILE_W, members_x) - 1
    partial += tl.program_id(0).to(tl.int64) * ((2 * KH - 1) * (2 * KW - 1))
    for dy in range(
        _window(last_y, members_y, KH, BORDER) - last_y,
        _window(top, members_y, KH, BORDER) - top + KH,
    ):
        for dx in range(
            _window(last_x, members_x, KW, BORDER) - last_x,
            _window(left, members_x, KW, BORDER) - left + KW,
        ):
            ky, kx = y + dy, x + dx
            keys, values, ky = _keys_at(
                k, v, key_mask, ky, kx, valid, image, head, class_y, class_x,
                k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
                D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
            )  # fmt: skip
            seen = _in_window(ky, kx, start_y, start_x, KH, KW)
            slot = _slot(ky, kx, start_y, start_x, KW)
            logits = _logits(
                tl.sum(queries * keys, 1), bias, seen, number, head, y, x, ky, kx, slot,
                scale, KH, KW, BIAS,
            )  # fmt: skip
            _, d_logits = _softmax_gradient(
                logits, tl.sum(grads * values, 1), sums, shares, seed, number, slot,
                threshold, keep_scale,
            )  # fmt: skip
            place = (dy + KH - 1) * (2 * KW - 1) + dx + KW - 1
            tl.store(partial + place, tl.sum(d_logits))
