"""What local attention's Triton kernels share: where queries, keys and windows lie; logits.

Names: y, x are positions of queries within their class, ky, kx of keys (negative or beyond the
class where they lie outside); M cells of a tile, N of a block. Logits are kept in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foveate.ops._triton import load_rows, number_of, offset_of

LOG2E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(2**29)  # where no window is and no key


@triton.jit
def members_of(position, length, DILATION: tl.constexpr):
    """How many positions of an axis agree with ``position`` modulo the dilation."""
    return (length + DILATION - 1 - position) // DILATION


@triton.jit
def block_of(first, rows, columns, top, left, SIZE: tl.constexpr):
    """The positions of ``SIZE`` cells of a rectangle, row by row from its cell ``first``.

    Also whether each is a cell of the rectangle. The division by ``columns`` is a multiplication,
    exact while ``rows * columns * columns`` stays below 2 ** 31.
    """
    cell = first + tl.arange(0, SIZE)
    inverse = ((2**31 - 1) // columns + 1).to(tl.uint32)  # of 2 ** 31, rounded up
    row = tl.umulhi((2 * cell).to(tl.uint32), inverse).to(tl.int32)
    return top + row, left + cell - row * columns, row < rows


@triton.jit
def window_start(position, members, KERNEL: tl.constexpr, BORDER: tl.constexpr):
    """Where the window of a query starts."""
    start = position - KERNEL // 2
    if BORDER == "shift":
        start = tl.maximum(tl.minimum(start, members - KERNEL), 0)
    return start


@triton.jit
def reach_of(first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, BORDER: tl.constexpr):
    """The first key that a tile's queries see, and how many from there to the last."""
    last = tl.minimum(first + TILE, members) - 1
    begin = window_start(first, members, KERNEL, BORDER)
    end = window_start(last, members, KERNEL, BORDER) + KERNEL
    if BORDER == "mask":
        begin = tl.maximum(begin, 0)
        end = tl.minimum(end, members)
    return begin, tl.maximum(end - begin, 0)


@triton.jit
def queries_that_see(
    first, members, TILE: tl.constexpr, KERNEL: tl.constexpr, BORDER: tl.constexpr
):
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
def on_map(position, remainder, length, DILATION: tl.constexpr, BORDER: tl.constexpr):
    """Where on the map a position of a class lies; outside it, ``< 0`` or ``>= length``."""
    place = position * DILATION + remainder
    if BORDER == "reflect":
        place = length - 1 - tl.abs(length - 1 - tl.abs(place))
    return place


@triton.jit
def queries_at(
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
    start_y = tl.where(valid, window_start(y, members_y, KH, BORDER), FAR)
    return vectors, number, start_y, window_start(x, members_x, KW, BORDER)


@triton.jit
def keys_at(
    k, v, key_mask, ky, kx, there, image, head, class_y, class_x,
    k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """Keys and values at (ky, kx), zero where there are none; and ky, for comparisons.

    A key that may not be attended has moved out of every window; one that is not ``there`` lies
    in none, or belongs to no one's tile.
    """
    row = on_map(ky, class_y, H, DIL_H, BORDER)
    column = on_map(kx, class_x, W, DIL_W, BORDER)
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
def in_window(ky, kx, start_y, start_x, KH: tl.constexpr, KW: tl.constexpr):
    """Which keys lie in the windows that start there."""
    return ((ky - start_y).to(tl.uint32) < KH) & ((kx - start_x).to(tl.uint32) < KW)


@triton.jit
def tap_of(ky, kx, start_y, start_x, KW: tl.constexpr):
    """Which tap of a window a key is; one subtraction a pair."""
    return (ky * KW + kx) - (start_y * KW + start_x)


@triton.jit
def logits_of(
    products, bias, seen, number, head, y, x, ky, kx, tap, scale,
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
        place = number * (KH * KW) + tap
        logits += tl.load(bias + place, mask=seen, other=0.0).to(tl.float32) * LOG2E
    return tl.where(seen, logits, float("-inf"))
