"""The Triton kernels of window attention.

Names: a window's cells have places, counted row by row; M queries and N keys of a window make a
block. Logits and their log-sum-exp are kept in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foveate.ops._triton import dropped, load_rows, number_of, offset_of, store_rows

LOG2E = tl.constexpr(1.4426950408889634)

_SIZES = ["H", "W", "heads", "WH", "WW", "GH", "GW", "SH", "SW"]
"""Of map, windows, their grid and shift: any size runs what one compilation made."""


@triton.jit
def _place_of(number, heads, windows, blocks):
    """A program's image, window, head and block of the window's cells."""
    head = number % heads
    number = number // heads
    block = number % blocks
    number = number // blocks
    return number // windows, number % windows, head, block


@triton.jit
def _cells_of(
    window, first, H, W, WH, WW, GH, GW, SH, SW, SPREAD: tl.constexpr, BLOCK: tl.constexpr
):
    """Places of a window from ``first`` on: their rows and columns on the map, which are there, and
    on which side of the seams where a shift brings two ends of the map together.
    """
    place = first + tl.arange(0, BLOCK)
    row, column = place // WW, place % WW
    if SPREAD:
        y, x = row * GH + window // GW, column * GW + window % GW
    else:
        y, x = window // GW * WH + row, window % GW * WW + column
    y, x = y + SH, x + SW
    down, across = y >= GH * WH, x >= GW * WW
    y, x = tl.where(down, y - GH * WH, y), tl.where(across, x - GW * WW, x)
    there = (place < WH * WW) & (y < H) & (x < W)
    return place, y, x, there, down.to(tl.int32) * 2 + across.to(tl.int32)


@triton.jit
def _rows_at(x, image, row, column, head, there, b, y, x_, h, d, D: tl.constexpr,
             BLOCK_D: tl.constexpr):  # fmt: skip
    """A map's vectors at these cells; zero where not ``there``."""
    at = offset_of(image, row, column, head, b, y, x_, h)
    return load_rows(x, at, there, d, D, BLOCK_D)


@triton.jit
def _logits_of(
    queries, keys, bias, head, place, key_place, there, key_there, side, key_side, cells, scale,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``(M, N)`` logits, -inf where a cell may not be attended to."""
    logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (scale * LOG2E)
    seen = there[:, None] & key_there[None, :] & (side[:, None] == key_side[None, :])
    if bias is not None:
        row = (head.to(tl.int64) * cells + place) * cells
        more = tl.load(bias + row[:, None] + key_place[None, :], mask=seen, other=0.0)
        logits += more.to(tl.float32) * LOG2E
    return tl.where(seen, logits, float("-inf"))


@triton.jit
def _keys_at(
    k, v, bias, queries, image, window, head, first, place, there, side,
    k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W, WH, WW, GH, GW, SH, SW, scale,
    D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Places of a window's keys from ``first`` on, the keys, the values and the queries' logits."""
    key_place, y, x, key_there, key_side = _cells_of(
        window, first, H, W, WH, WW, GH, GW, SH, SW, SPREAD, KEYS
    )
    keys = _rows_at(k, image, y, x, head, key_there, k_b, k_y, k_x, k_h, k_d, D, BLOCK_D)
    values = _rows_at(v, image, y, x, head, key_there, v_b, v_y, v_x, v_h, v_d, DV, BLOCK_DV)
    logits = _logits_of(
        queries, keys, bias, head, place, key_place, there, key_there, side, key_side, WH * WW,
        scale, PRECISION,
    )  # fmt: skip
    return key_place, keys, values, logits


@triton.jit
def _raised(logits, peak):
    """Weights of a running softmax, what shrinks those before them, and the new peak."""
    higher = tl.maximum(peak, tl.max(logits, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    return tl.exp2(logits - safe[:, None]), tl.exp2(peak - safe), higher


@triton.jit
def _weight_gradients(grads, values, seed, number, key_place, threshold, keep_scale,
                      PRECISION: tl.constexpr):  # fmt: skip
    """``(M, N)``: gradients of the weights before dropout."""
    d_weights = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    return dropped(d_weights, seed, number[:, None], key_place[None, :], threshold, keep_scale)


@triton.jit(do_not_specialize=_SIZES)
def forward(
    q, k, v, bias, seed, out,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Output of a block of queries, over the keys of their window by a running softmax."""
    image, window, head, block = _place_of(
        tl.program_id(0), heads, GH * GW, tl.cdiv(WH * WW, QUERIES)
    )
    place, y, x, there, side = _cells_of(
        window, block * QUERIES, H, W, WH, WW, GH, GW, SH, SW, SPREAD, QUERIES
    )
    queries = _rows_at(q, image, y, x, head, there, q_b, q_y, q_x, q_h, q_d, D, BLOCK_D)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, BLOCK_DV), tl.float32)
    for first in range(0, WH * WW, KEYS):
        key_place, _, values, logits = _keys_at(
            k, v, bias, queries, image, window, head, first, place, there, side,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
            H, W, WH, WW, GH, GW, SH, SW, scale,
            D, DV, SPREAD, PRECISION, BLOCK_D, BLOCK_DV, KEYS,
        )  # fmt: skip
        weights, shrink, peak = _raised(logits, peak)
        total = total * shrink + tl.sum(weights, 1)
        weights = dropped(weights, seed, number[:, None], key_place[None, :], threshold, keep_scale)
        mixed = tl.dot(
            weights.to(values.dtype), values, mixed * shrink[:, None], input_precision=PRECISION
        )
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    store_rows(out, number * DV, there, mixed, DV, BLOCK_DV)


@triton.jit(do_not_specialize=_SIZES)
def query_gradients(
    q, k, v, bias, seed, grad, lse, delta, dq,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries; and their log-sum-exp and ``delta``, the mean of the weights'
    gradients by the weights, which the other kernels read.
    """
    image, window, head, block = _place_of(
        tl.program_id(0), heads, GH * GW, tl.cdiv(WH * WW, QUERIES)
    )
    place, y, x, there, side = _cells_of(
        window, block * QUERIES, H, W, WH, WW, GH, GW, SH, SW, SPREAD, QUERIES
    )
    queries = _rows_at(q, image, y, x, head, there, q_b, q_y, q_x, q_h, q_d, D, BLOCK_D)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    grads = load_rows(grad, number * DV, there, 1, DV, BLOCK_DV)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mean = tl.zeros((QUERIES,), tl.float32)
    for first in range(0, WH * WW, KEYS):
        key_place, keys, values, logits = _keys_at(
            k, v, bias, queries, image, window, head, first, place, there, side,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
            H, W, WH, WW, GH, GW, SH, SW, scale,
            D, DV, SPREAD, PRECISION, BLOCK_D, BLOCK_DV, KEYS,
        )  # fmt: skip
        d_weights = _weight_gradients(
            grads, values, seed, number, key_place, threshold, keep_scale, PRECISION
        )
        weights, shrink, peak = _raised(logits, peak)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink + tl.sum(weights * d_weights, 1)
    some = total > 0
    mean = mean / tl.where(some, total, 1.0)
    log_sum = tl.where(some, peak + tl.log2(tl.where(some, total, 1.0)), 0.0)
    tl.store(lse + number, log_sum, mask=there)
    tl.store(delta + number, mean, mask=there)

    mixed = tl.zeros((QUERIES, BLOCK_D), tl.float32)
    for first in range(0, WH * WW, KEYS):
        key_place, keys, values, logits = _keys_at(
            k, v, bias, queries, image, window, head, first, place, there, side,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
            H, W, WH, WW, GH, GW, SH, SW, scale,
            D, DV, SPREAD, PRECISION, BLOCK_D, BLOCK_DV, KEYS,
        )  # fmt: skip
        d_weights = _weight_gradients(
            grads, values, seed, number, key_place, threshold, keep_scale, PRECISION
        )
        d_logits = tl.exp2(logits - log_sum[:, None]) * (d_weights - mean[:, None])
        mixed = tl.dot(d_logits.to(keys.dtype), keys, mixed, input_precision=PRECISION)
    store_rows(dq, number * D, there, mixed * scale, D, BLOCK_D)


@triton.jit
def _gradients_of_block(
    q, grad, lse, delta, keys, values, bias, seed, image, window, head, first, key_place, key_there,
    key_side, q_b, q_y, q_x, q_h, q_d, H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold,
    keep_scale, D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Of the queries from place ``first`` on: they, their outputs' gradients, the weights (M, N)
    that they give the keys, after dropout, and the gradients of the logits.
    """
    place, y, x, there, side = _cells_of(
        window, first, H, W, WH, WW, GH, GW, SH, SW, SPREAD, QUERIES
    )
    queries = _rows_at(q, image, y, x, head, there, q_b, q_y, q_x, q_h, q_d, D, BLOCK_D)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    grads = load_rows(grad, number * DV, there, 1, DV, BLOCK_DV)
    log_sum = tl.load(lse + number, mask=there, other=0.0)
    mean = tl.load(delta + number, mask=there, other=0.0)
    logits = _logits_of(
        queries, keys, bias, head, place, key_place, there, key_there, side, key_side, WH * WW,
        scale, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(logits - log_sum[:, None])
    d_weights = _weight_gradients(
        grads, values, seed, number, key_place, threshold, keep_scale, PRECISION
    )
    d_logits = weights * (d_weights - mean[:, None])
    weights = dropped(weights, seed, number[:, None], key_place[None, :], threshold, keep_scale)
    return queries, grads, weights, d_logits


@triton.jit(do_not_specialize=_SIZES)
def key_gradients(
    q, k, v, bias, seed, grad, lse, delta, dk, dv,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values, gathered from the queries of their window."""
    image, window, head, block = _place_of(tl.program_id(0), heads, GH * GW, tl.cdiv(WH * WW, KEYS))
    key_place, y, x, key_there, key_side = _cells_of(
        window, block * KEYS, H, W, WH, WW, GH, GW, SH, SW, SPREAD, KEYS
    )
    keys = _rows_at(k, image, y, x, head, key_there, k_b, k_y, k_x, k_h, k_d, D, BLOCK_D)
    values = _rows_at(v, image, y, x, head, key_there, v_b, v_y, v_x, v_h, v_d, DV, BLOCK_DV)
    of_keys = tl.zeros((KEYS, BLOCK_D), tl.float32)
    of_values = tl.zeros((KEYS, BLOCK_DV), tl.float32)
    for first in range(0, WH * WW, QUERIES):
        queries, grads, weights, d_logits = _gradients_of_block(
            q, grad, lse, delta, keys, values, bias, seed, image, window, head, first, key_place,
            key_there, key_side, q_b, q_y, q_x, q_h, q_d, H, W, heads, WH, WW, GH, GW, SH, SW,
            scale, threshold, keep_scale, D, DV, SPREAD, PRECISION, BLOCK_D, BLOCK_DV, QUERIES,
        )  # fmt: skip
        of_values = tl.dot(
            tl.trans(weights.to(grads.dtype)), grads, of_values, input_precision=PRECISION
        )
        of_keys = tl.dot(
            tl.trans(d_logits.to(queries.dtype)), queries, of_keys, input_precision=PRECISION
        )
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    store_rows(dk, number * D, key_there, of_keys * scale, D, BLOCK_D)
    store_rows(dv, number * DV, key_there, of_values, DV, BLOCK_DV)


@triton.jit(do_not_specialize=[*_SIZES, "windows", "chunk"])
def bias_gradients(
    q, k, v, bias, seed, grad, lse, delta, partial, windows, chunk,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of the bias's gradient, of one head, summed over ``chunk`` of all images' windows."""
    blocks = tl.cdiv(WH * WW, KEYS)
    part, query_block, head, key_block = _place_of(
        tl.program_id(0), heads, tl.cdiv(WH * WW, QUERIES), blocks
    )
    total = tl.zeros((QUERIES, KEYS), tl.float32)
    for at in range(part * chunk, tl.minimum((part + 1) * chunk, windows)):
        image, window = at // (GH * GW), at % (GH * GW)
        key_place, y, x, key_there, key_side = _cells_of(
            window, key_block * KEYS, H, W, WH, WW, GH, GW, SH, SW, SPREAD, KEYS
        )
        keys = _rows_at(k, image, y, x, head, key_there, k_b, k_y, k_x, k_h, k_d, D, BLOCK_D)
        values = _rows_at(v, image, y, x, head, key_there, v_b, v_y, v_x, v_h, v_d, DV, BLOCK_DV)
        _, _, _, d_logits = _gradients_of_block(
            q, grad, lse, delta, keys, values, bias, seed, image, window, head,
            query_block * QUERIES, key_place, key_there, key_side, q_b, q_y, q_x, q_h, q_d,
            H, W, heads, WH, WW, GH, GW, SH, SW, scale, threshold, keep_scale, D, DV, SPREAD,
            PRECISION, BLOCK_D, BLOCK_DV, QUERIES,
        )  # fmt: skip
        total += d_logits
    cells = WH * WW
    row = query_block * QUERIES + tl.arange(0, QUERIES)
    column = key_block * KEYS + tl.arange(0, KEYS)
    at = ((part.to(tl.int64) * heads + head) * cells + row) * cells
    inside = (row < cells)[:, None] & (column < cells)[None, :]
    tl.store(partial + at[:, None] + column[None, :], total, mask=inside)
