"""The Triton kernel of local attention's forward."""

from __future__ import annotations

import triton
import triton.language as tl

from foveate.ops._triton import cells_of, dropped, store_rows, tile_of
from foveate.ops.local._triton_geometry import (
    block_of,
    in_window,
    keys_at,
    logits_of,
    members_of,
    queries_at,
    reach_of,
    tap_of,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def forward(
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
    members_y, members_x = members_of(class_y, H, DIL_H), members_of(class_x, W, DIL_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < members_y) & (x < members_x)
    queries, number, start_y, start_x = queries_at(
        q, y, x, valid, image, head, class_y, class_x, members_y, members_x,
        q_b, q_y, q_x, q_h, q_d, H, W, heads, D, BLOCK_D, KH, KW, DIL_H, DIL_W, BORDER,
    )  # fmt: skip

    top, rows = reach_of(top, members_y, TILE_H, KH, BORDER)
    left, columns = reach_of(left, members_x, TILE_W, KW, BORDER)
    peak = tl.full((TILE_H * TILE_W,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_H * TILE_W,), tl.float32)
    mixed = tl.zeros((TILE_H * TILE_W, BLOCK_DV), tl.float32)
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
        higher = tl.maximum(peak, tl.max(logits, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - safe[:, None])
        shrink = tl.exp2(peak - safe)
        total = total * shrink + tl.sum(weights, 1)
        weights = dropped(weights, seed, number[:, None], tap, threshold, keep_scale)
        mixed = tl.dot(
            weights.to(values.dtype), values, mixed * shrink[:, None], input_precision=PRECISION
        )
        peak = higher

    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    store_rows(out, number * DV, valid, mixed, DV, BLOCK_DV)
    tl.store(lse + number, (peak + tl.log2(total)) * LN2, mask=valid)
