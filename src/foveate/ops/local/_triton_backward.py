"""The Triton kernels of local attention's backward.

Probabilities are recomputed from the log-sum-exp. Queries' gradients come by tiles of queries;
keys' and values' by tiles of keys, each of which visits the queries that see it: nothing is added
atomically, and equal inputs give equal gradients. Under ``border="reflect"`` the tiles of keys
cover the mirrored surroundings too, whose gradients are folded back afterwards. The gradient of a
relative table is summed offset by offset within each tile, then over tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foveate.ops._triton import cells_of, dropped, load_rows, number_of, store_rows, tile_of
from foveate.ops.local._triton_geometry import (
    LOG2E,
    block_of,
    in_window,
    keys_at,
    logits_of,
    members_of,
    queries_at,
    queries_that_see,
    reach_of,
    tap_of,
    window_start,
)


@triton.jit
def log_sums(lse, number, valid):
    """Queries' log-sum-exps in powers of two; zero, not ``-inf``, for one without any key."""
    sums = tl.load(lse + number, mask=valid, other=0.0) * LOG2E
    return tl.where(sums == float("-inf"), 0.0, sums)


@triton.jit
def softmax_gradient(
    logits, grad, lse, delta, seed, number, tap, threshold, keep_scale
):  # fmt: skip
    """Weights as they met the values, and the gradient of the logits.

    ``grad`` is that of the weights, ``delta`` what each query's weights sum it to; ``lse`` is in
    powers of two.
    """
    weights = tl.exp2(logits - lse)
    grad = dropped(grad, seed, number, tap, threshold, keep_scale)
    d_logits = weights * (grad - delta)
    return dropped(weights, seed, number, tap, threshold, keep_scale), d_logits


@triton.jit(do_not_specialize=["H", "W", "heads"])
def query_gradients(
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
    members_y, members_x = members_of(class_y, H, DIL_H), members_of(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip
    grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV)  # (M, DV)
    outs = load_rows(out, number * DV, valid, 1, DV, BLOCK_DV)
    sums = log_sums(lse, number, valid)
    shares = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    if grad_lse is not None:
        shares -= tl.load(grad_lse + number, mask=valid, other=0.0)
    tl.store(delta + number, shares, mask=valid)

    top, rows = reach_of(top, members_y, TILE_H, KH, BORDER)
    left, columns = reach_of(left, members_x, TILE_W, KW, BORDER)
    d_queries = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
    for first in range(0, rows * columns, KEYS):
        ky, kx, there = block_of(first, rows, columns, top, left, KEYS)
        keys, values, ky = keys_at(
            k, v, key_mask, ky, kx, there, image, head, class_y, class_x,
            k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
            D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
        )  # fmt: skip
        seen = in_window(
            ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KH, KW
        )  # (M, N)
        tap = tap_of(ky[None, :], kx[None, :], start_y[:, None], start_x[:, None], KW)
        logits = logits_of(
            tl.dot(queries, tl.trans(keys), input_precision=PRECISION), bias, seen,
            number[:, None], head, y[:, None], x[:, None], ky[None, :], kx[None, :], tap,
            scale, KH, KW, BIAS,
        )  # fmt: skip
        _, d_logits = softmax_gradient(
            logits, tl.dot(grads, tl.trans(values), input_precision=PRECISION),
            sums[:, None], shares[:, None], seed, number[:, None], tap,
            threshold, keep_scale,
        )  # fmt: skip
        if d_each is not None:
            place = number[:, None] * (KH * KW) + tap
            tl.store(d_each + place, d_logits.to(d_each.dtype.element_ty), mask=seen)
        d_queries = tl.dot(d_logits.to(keys.dtype), keys, d_queries, input_precision=PRECISION)

    store_rows(dq, number * D, valid, d_queries * scale, D, BLOCK_D)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def key_gradients(
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
    members_y, members_x = members_of(class_y, H, DIL_H), members_of(class_x, W, DIL_W)
    cell_y, cell_x = cells_of(top, left, TILE_H, TILE_W)  # on the grown map
    ours = (cell_y < members_y + MARGIN_H) & (cell_x < members_x + MARGIN_W)
    ky, kx = cell_y - BEFORE_H, cell_x - BEFORE_W
    keys, values, ky = keys_at(
        k, v, key_mask, ky, kx, ours, image, head, class_y, class_x,
        k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
        D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
    )  # fmt: skip

    top, rows = queries_that_see(top - BEFORE_H, members_y, TILE_H, KH, BORDER)
    left, columns = queries_that_see(left - BEFORE_W, members_x, TILE_W, KW, BORDER)
    d_keys = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
    d_values = tl.zeros((TILE_H * TILE_W, BLOCK_DV), tl.float32)
    for first in range(0, rows * columns, KEYS):
        y, x, valid = block_of(first, rows, columns, top, left, KEYS)
        queries, number, start_y, start_x = queries_at(
            q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
            q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
        )  # fmt: skip
        grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV)
        sums = log_sums(lse, number, valid)
        shares = tl.load(delta + number, mask=valid, other=0.0)
        seen = in_window(
            ky[:, None], kx[:, None], start_y[None, :], start_x[None, :], KH, KW
        )  # (M, N)
        tap = tap_of(ky[:, None], kx[:, None], start_y[None, :], start_x[None, :], KW)
        logits = logits_of(
            tl.dot(keys, tl.trans(queries), input_precision=PRECISION), bias, seen,
            number[None, :], head, y[None, :], x[None, :], ky[:, None], kx[:, None], tap,
            scale, KH, KW, BIAS,
        )  # fmt: skip
        weights, d_logits = softmax_gradient(
            logits, tl.dot(values, tl.trans(grads), input_precision=PRECISION),
            sums[None, :], shares[None, :], seed, number[None, :], tap,
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
def table_gradients(
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
    members_y, members_x = members_of(class_y, H, DIL_H), members_of(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip
    grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV).to(tl.float32)
    queries = queries.to(tl.float32)
    sums = log_sums(lse, number, valid)
    shares = tl.load(delta + number, mask=valid, other=0.0)

    # A window starts further back from its query the further down the map it lies.
    last_y = tl.minimum(top + TILE_H, members_y) - 1
    last_x = tl.minimum(left + TILE_W, members_x) - 1
    partial += tl.program_id(0).to(tl.int64) * ((2 * KH - 1) * (2 * KW - 1))
    for dy in range(
        window_start(last_y, members_y, KH, BORDER) - last_y,
        window_start(top, members_y, KH, BORDER) - top + KH,
    ):
        for dx in range(
            window_start(last_x, members_x, KW, BORDER) - last_x,
            window_start(left, members_x, KW, BORDER) - left + KW,
        ):
            ky, kx = y + dy, x + dx
            keys, values, ky = keys_at(
                k, v, key_mask, ky, kx, valid, image, head, class_y, class_x,
                k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d, H, W,
                D, DV, BLOCK_D, BLOCK_DV, DIL_H, DIL_W, BORDER,
            )  # fmt: skip
            seen = in_window(ky, kx, start_y, start_x, KH, KW)
            tap = tap_of(ky, kx, start_y, start_x, KW)
            logits = logits_of(
                tl.sum(queries * keys, 1), bias, seen, number, head, y, x, ky, kx, tap,
                scale, KH, KW, BIAS,
            )  # fmt: skip
            _, d_logits = softmax_gradient(
                logits, tl.sum(grads * values, 1), sums, shares, seed, number, tap,
                threshold, keep_scale,
            )  # fmt: skip
            place = (dy + KH - 1) * (2 * KW - 1) + dx + KW - 1
            tl.store(partial + place, tl.sum(d_logits))
