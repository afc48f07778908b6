"""Slide attention on GPUs: Triton kernels, forward and backward.

A program has one head of one image and a tile of queries, as rows of matrices ``(M, channels)``.
No shift channel's convolved map is ever built: with taps ``j`` the two halves of the operator are

    scores[m, n] = sum over j of (x[m] * near[m + j]) . weight[n, j]  +  x[m] . bias[n]
    mix[m]       = sum over j of (a[m] @ weight[:, j]) * near[m + j]  +  a[m] @ bias

with one small dense product a tap, whose weights all programs share. Forward is
``mix(softmax(scores(q, k)), v)``; backward turns the halves around: the weights' gradient is
``scores(grad, v)``, that of the queries ``mix(d_logits, k)``. Keys and values gather from the
queries whose taps reach them. Gradients of depthwise kernels and biases are summed over chunks of
pixels, then over chunks: nothing is added atomically.

n counts the shift channels. Probabilities and gradients of logits lie ``(B, heads, n, H, W)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops import _triton
from foveate.ops._dropout import threshold
from foveate.ops._operator import Flags, Given
from foveate.ops._triton import (
    cells_of,
    dropped,
    load_rows,
    number_of,
    offset_of,
    store_rows,
    tile_of,
)
from foveate.ops.slide._arguments import Arguments, probabilities_shape

LOG2E = tl.constexpr(1.4426950408889634)

_PIXELS = 2048  # of a chunk, in the sums over pixels
_KEY = ("D", "DV", "KH", "KW")


def forward(a: Arguments, flags: Flags) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and, for a backward, probabilities ``(B, h, n, H, W)``."""
    keep = flags.training
    out = a.v.new_empty((*a.q.shape[:4], a.v.shape[4]))
    shape = probabilities_shape(a.q, a.kernel_size) if keep else (0,)
    probabilities = a.q.new_empty(shape, dtype=torch.float32)
    if a.q.shape[0]:
        _launch(_forward, a, {"out": out, "probabilities": probabilities if keep else None})
    return out, probabilities


def backward(given: Given, a: Arguments) -> list[Tensor]:
    """Gradients of q, k, v and, if asked, of the weights and biases."""
    q, k, v, kernel_size, probabilities = a.q, a.k, a.v, a.kernel_size, given.kept
    weights = (a.key_weight, a.key_bias, a.value_weight, a.value_bias)
    wanted = (q, k, v, *(weights if given.parameter_grads else ()))
    if not q.shape[0]:
        return [x.new_zeros(x.shape) for x in wanted]
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    grad = given.grad_out.contiguous()
    d_logits = torch.empty_like(probabilities)
    dropped_weights = torch.empty_like(probabilities) if a.dropout_p else None
    own = {"grad": grad, "probabilities": probabilities, "d_logits": d_logits, "dq": dq}
    _launch(_query_gradients, a, own | {"kept": dropped_weights})
    kept = probabilities if dropped_weights is None else dropped_weights
    _gather(d_logits, q, a.key_weight, kernel_size, a.scale, dk)
    _gather(kept, grad, a.value_weight, kernel_size, 1.0, dv)
    if not given.parameter_grads:
        return [dq, dk, dv]
    key_sums = _weight_sums(d_logits, q, k, kernel_size)
    value_sums = _weight_sums(kept, grad, v, kernel_size)
    grads = (
        *_weight_gradients(key_sums * a.scale, a.key_bias),
        *_weight_gradients(value_sums, a.value_bias),
    )
    return [dq, dk, dv, *(x.to(w.dtype) for x, w in zip(grads, weights, strict=True))]


def _launch(kernel: Any, a: Arguments, own: dict[str, Any]) -> None:
    """Start a kernel on tiles of queries, with the operator's arguments and its ``own``."""
    arguments = _maps(a) | _weights(a) | _dropout(a) | {"scale": a.scale} | own
    configs = _configs(a.q, a.v, a.kernel_size)
    _triton.launch(kernel, _triton.tiles(a.q, (1, 1)), configs, _KEY, arguments)


def _gather(
    a: Tensor, x: Tensor, weight: Tensor, kernel_size: Sequence[int], factor: float, out: Tensor
) -> None:
    """``out``: what the taps of the queries around each pixel give it."""
    arguments = _map("q", x) | {
        "a": a,
        "weight": weight.contiguous(),
        "factor": factor,
        "out": out,
        "heads": x.shape[3],
        "D": x.shape[4],
        "BLOCK_D": _triton.padded(x.shape[4]),
    }
    configs, key = _configs(x, x, kernel_size), ("D", "KH", "KW")
    arguments |= _sizes(x, kernel_size)
    _triton.launch(_neighbour_gradients, _triton.tiles(x, (1, 1)), configs, key, arguments)


def _weight_sums(a: Tensor, x: Tensor, near: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """``(heads, taps + 1, n, D)``: gradients of the taps' weights, and last of the bias."""
    taps = kernel_size[0] * kernel_size[1]
    chunks = (x.shape[0] * x.shape[1] * x.shape[2] + _PIXELS - 1) // _PIXELS
    partial = x.new_empty((chunks, x.shape[3], taps + 1, taps, x.shape[4]), dtype=torch.float32)
    arguments = (
        _map("q", x)
        | _map("near", near)
        | {
            "a": a,
            "partial": partial,
            "pixels": x.shape[0] * x.shape[1] * x.shape[2],
            "heads": x.shape[3],
            "CHUNK": _PIXELS,
            "D": x.shape[4],
            "BLOCK_D": _triton.padded(x.shape[4]),
        }
    )
    _triton.launch(
        _weight_gradients_of_chunks,
        lambda sizes: chunks * x.shape[3] * (taps + 1),
        _SUM_CONFIGS,
        ("D", "KH", "KW"),
        arguments | _sizes(x, kernel_size),
    )
    return partial.sum(0)


def _weight_gradients(sums: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a weight ``(n, taps, D)`` and its bias ``(heads or 1, n, D)``."""
    d_bias = sums[:, -1]
    return sums[:, :-1].sum(0).transpose(0, 1).contiguous(), (
        d_bias.contiguous() if bias.shape[0] == sums.shape[0] else d_bias.sum(0, keepdim=True)
    )


def _maps(a: Arguments) -> dict[str, Any]:
    return (
        _map("q", a.q)
        | _map("k", a.k)
        | _map("v", a.v)
        | _sizes(a.q, a.kernel_size)
        | {
            "heads": a.q.shape[3],
            "D": a.q.shape[4],
            "DV": a.v.shape[4],
            "BLOCK_D": _triton.padded(a.q.shape[4]),
            "BLOCK_DV": _triton.padded(a.v.shape[4]),
        }
    )


def _map(name: str, x: Tensor) -> dict[str, Any]:
    strides = zip("byxhd", x.stride(), strict=True)
    return {name: x} | {f"{name}_{axis}": stride for axis, stride in strides}


def _sizes(x: Tensor, kernel_size: Sequence[int]) -> dict[str, Any]:
    return {
        "H": x.shape[1],
        "W": x.shape[2],
        "KH": kernel_size[0],
        "KW": kernel_size[1],
        "SHIFTS": _triton.padded(kernel_size[0] * kernel_size[1]),
        "PRECISION": _triton.precision(),
    }


def _weights(a: Arguments) -> dict[str, Any]:
    """Depthwise kernels and biases; a bias for all heads has no step from head to head."""
    biases = {"key_bias": a.key_bias.contiguous(), "value_bias": a.value_bias.contiguous()}
    steps = {f"{name}_h": x.stride(0) if x.shape[0] > 1 else 0 for name, x in biases.items()}
    weights = {"key_weight": a.key_weight.contiguous(), "value_weight": a.value_weight.contiguous()}
    return biases | steps | weights


def _dropout(a: Arguments) -> dict[str, Any]:
    return {
        "seed": None if a.seed is None else a.seed.to(a.q.device),
        "threshold": threshold(a.dropout_p),
        "keep_scale": 1 / (1 - a.dropout_p),
    }


def _configs(q: Tensor, v: Tensor, kernel_size: Sequence[int]) -> tuple[triton.Config, ...]:
    """Tiles worth timing: what registers and shared memory hold."""
    if _triton.INTERPRETED:
        return (_config(4, 8, 1, 1),)
    widest = max(_triton.padded(q.shape[4]), _triton.padded(v.shape[4]))
    if widest * q.element_size() <= 128 and kernel_size[0] * kernel_size[1] <= 32:
        return _NARROW
    return _WIDE


def _config(tile_h: int, tile_w: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"TILE_H": tile_h, "TILE_W": tile_w}, num_warps=warps, num_stages=stages)


_NARROW = (
    _config(8, 8, 4, 1),
    _config(8, 8, 4, 2),
    _config(8, 8, 4, 3),
    _config(4, 16, 4, 2),
    _config(8, 16, 8, 2),
)
_WIDE = (_config(4, 8, 4, 1), _config(8, 8, 4, 1), _config(8, 8, 8, 1), _config(8, 8, 8, 2))
_SUM_CONFIGS = (
    tuple(
        triton.Config({"BLOCK": block}, num_warps=4, num_stages=stages)
        for block, stages in ((16, 2), (32, 2), (64, 2))
    )
    if not _triton.INTERPRETED
    else (triton.Config({"BLOCK": 64}),)
)


# ---- the two halves


@triton.jit
def _matrix(x, offset, row, ROWS: tl.constexpr, D: tl.constexpr, SHIFTS: tl.constexpr,
            BLOCK_D: tl.constexpr):  # fmt: skip
    """The ``(SHIFTS, BLOCK_D)`` matrix whose rows start at ``offset`` and lie ``row`` apart."""
    shift = tl.arange(0, SHIFTS)
    return load_rows(x, offset + shift.to(tl.int64) * row, shift < ROWS, 1, D, BLOCK_D)


@triton.jit
def _neighbours(
    x, y, column, there, image, head, dy, dx, x_b, x_y, x_x, x_h, x_d, H, W,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The map's vectors at an offset from the pixels; zero outside the map."""
    row, column = y + dy, column + dx
    inside = there & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    at = offset_of(image, row, column, head, x_b, x_y, x_x, x_h)
    return load_rows(x, at, inside, x_d, D, BLOCK_D)


@triton.jit
def _scores(
    vectors, near, weight, bias, y, x, valid, image, head, n_b, n_y, n_x, n_h, n_d, bias_h, H, W,
    D: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``(M, SHIFTS)``: the vectors' products with what each shift channel holds."""
    TAPS: tl.constexpr = KH * KW
    dtype: tl.constexpr = vectors.dtype
    row = _matrix(bias, head.to(tl.int64) * bias_h, D, TAPS, D, SHIFTS, BLOCK_D)
    scores = tl.dot(vectors, tl.trans(row.to(dtype)), input_precision=PRECISION)
    for tap in range(TAPS):
        moved = _neighbours(
            near, y, x, valid, image, head, tap // KW - KH // 2, tap % KW - KW // 2,
            n_b, n_y, n_x, n_h, n_d, H, W, D, BLOCK_D,
        )  # fmt: skip
        matrix = _matrix(weight, tap * D, TAPS * D, TAPS, D, SHIFTS, BLOCK_D).to(dtype)
        scores = tl.dot(vectors * moved, tl.trans(matrix), scores, input_precision=PRECISION)
    return scores


@triton.jit
def _mixed(
    weights, near, weight, bias, y, x, valid, image, head, n_b, n_y, n_x, n_h, n_d, bias_h, H, W,
    D: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``(M, BLOCK_D)``: what the shift channels hold, weighted."""
    TAPS: tl.constexpr = KH * KW
    dtype: tl.constexpr = near.dtype.element_ty
    weights = weights.to(dtype)
    row = _matrix(bias, head.to(tl.int64) * bias_h, D, TAPS, D, SHIFTS, BLOCK_D)
    mixed = tl.dot(weights, row.to(dtype), input_precision=PRECISION)
    for tap in range(TAPS):
        moved = _neighbours(
            near, y, x, valid, image, head, tap // KW - KH // 2, tap % KW - KW // 2,
            n_b, n_y, n_x, n_h, n_d, H, W, D, BLOCK_D,
        )  # fmt: skip
        matrix = _matrix(weight, tap * D, TAPS * D, TAPS, D, SHIFTS, BLOCK_D).to(dtype)
        mixed += tl.dot(weights, matrix, input_precision=PRECISION) * moved.to(tl.float32)
    return mixed


@triton.jit
def _shifts_at(y, x, image, head, H, W, heads, COUNT: tl.constexpr, SHIFTS: tl.constexpr):
    """Where queries' shift channels lie in a ``(B, heads, n, H, W)``, and which there are."""
    shift = tl.arange(0, SHIFTS)
    plane = (image.to(tl.int64) * heads + head) * COUNT + shift
    return plane[None, :] * (H * W) + (y * W + x)[:, None], (shift < COUNT)[None, :]


# ---- kernels


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _forward(
    q, k, v, key_weight, key_bias, value_weight, value_bias, seed, out, probabilities,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    key_bias_h, value_bias_h, H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """Output of a tile of queries and, if asked for, its probabilities."""
    image, head, _, _, top, left = tile_of(tl.program_id(0), heads, H, W, 1, 1, TILE_H, TILE_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < H) & (x < W)
    queries = _neighbours(
        q, y, x, valid, image, head, 0, 0, q_b, q_y, q_x, q_h, q_d, H, W, D, BLOCK_D
    )  # fmt: skip
    logits = _scores(
        queries, k, key_weight, key_bias, y, x, valid, image, head,
        k_b, k_y, k_x, k_h, k_d, key_bias_h, H, W, D, KH, KW, SHIFTS, BLOCK_D, PRECISION,
    )  # fmt: skip
    place, any_shift = _shifts_at(y, x, image, head, H, W, heads, KH * KW, SHIFTS)
    logits = tl.where(any_shift, logits * (scale * LOG2E), float("-inf"))
    weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    if probabilities is not None:
        tl.store(probabilities + place, weights, mask=valid[:, None] & any_shift)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    shift = tl.arange(0, SHIFTS)[None, :]
    weights = dropped(weights, seed, number[:, None], shift, threshold, keep_scale)
    mixed = _mixed(
        weights, v, value_weight, value_bias, y, x, valid, image, head,
        v_b, v_y, v_x, v_h, v_d, value_bias_h, H, W, DV, KH, KW, SHIFTS, BLOCK_DV, PRECISION,
    )  # fmt: skip
    store_rows(out, number * DV, valid, mixed, DV, BLOCK_DV)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _query_gradients(
    q, k, v, key_weight, key_bias, value_weight, value_bias, seed, grad, probabilities,
    d_logits, kept, dq,
    q_b, q_y, q_x, q_h, q_d, k_b, k_y, k_x, k_h, k_d, v_b, v_y, v_x, v_h, v_d,
    key_bias_h, value_bias_h, H, W, heads, scale, threshold, keep_scale,
    D: tl.constexpr, DV: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's logits and queries; with dropout also the weights that were kept."""
    image, head, _, _, top, left = tile_of(tl.program_id(0), heads, H, W, 1, 1, TILE_H, TILE_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < H) & (x < W)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    grads = load_rows(grad, number * DV, valid, 1, DV, BLOCK_DV)  # (M, DV)
    d_weights = _scores(
        grads, v, value_weight, value_bias, y, x, valid, image, head,
        v_b, v_y, v_x, v_h, v_d, value_bias_h, H, W, DV, KH, KW, SHIFTS, BLOCK_DV, PRECISION,
    )  # fmt: skip
    place, any_shift = _shifts_at(y, x, image, head, H, W, heads, KH * KW, SHIFTS)
    there = valid[:, None] & any_shift
    weights = tl.load(probabilities + place, mask=there, other=0.0)
    shift = tl.arange(0, SHIFTS)[None, :]
    d_weights = dropped(d_weights, seed, number[:, None], shift, threshold, keep_scale)
    if kept is not None:
        still = dropped(weights, seed, number[:, None], shift, threshold, keep_scale)
        tl.store(kept + place, still, mask=there)
    tile_d_logits = weights * (d_weights - tl.sum(weights * d_weights, 1)[:, None])
    tl.store(d_logits + place, tile_d_logits, mask=there)
    mixed = _mixed(
        tile_d_logits, k, key_weight, key_bias, y, x, valid, image, head,
        k_b, k_y, k_x, k_h, k_d, key_bias_h, H, W, D, KH, KW, SHIFTS, BLOCK_D, PRECISION,
    )  # fmt: skip
    store_rows(dq, number * D, valid, mixed * scale, D, BLOCK_D)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _neighbour_gradients(
    a, q, weight, out, q_b, q_y, q_x, q_h, q_d, H, W, heads, factor,
    D: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """What a tile of keys (or values) is given by the queries whose taps reach it.

    ``a`` are those queries' gradients of logits (or weights), ``q`` their vectors (or gradients).
    """
    TAPS: tl.constexpr = KH * KW
    image, head, _, _, top, left = tile_of(tl.program_id(0), heads, H, W, 1, 1, TILE_H, TILE_W)
    y, x = cells_of(top, left, TILE_H, TILE_W)
    valid = (y < H) & (x < W)
    dtype: tl.constexpr = q.dtype.element_ty
    total = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
    for tap in range(TAPS):
        dy, dx = KH // 2 - tap // KW, KW // 2 - tap % KW  # of the query, seen from its tap
        vectors = _neighbours(
            q, y, x, valid, image, head, dy, dx, q_b, q_y, q_x, q_h, q_d, H, W, D, BLOCK_D
        )  # fmt: skip
        row, column = y + dy, x + dx
        inside = valid & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        place, any_shift = _shifts_at(row, column, image, head, H, W, heads, TAPS, SHIFTS)
        weights = tl.load(a + place, mask=inside[:, None] & any_shift, other=0.0).to(dtype)
        matrix = _matrix(weight, tap * D, TAPS * D, TAPS, D, SHIFTS, BLOCK_D).to(dtype)
        mixed = tl.dot(weights, matrix, input_precision=PRECISION)
        total += mixed * vectors.to(tl.float32)
    number = number_of(image, y, x, head, 0, 0, H, W, heads, 1, 1)
    store_rows(out, number * D, valid, total * factor, D, BLOCK_D)


@triton.jit(do_not_specialize=["H", "W", "heads"])
def _weight_gradients_of_chunks(
    a, q, near, partial, q_b, q_y, q_x, q_h, q_d, near_b, near_y, near_x, near_h, near_d,
    H, W, heads, pixels, CHUNK: tl.constexpr,
    D: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SHIFTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of pixels' share in the gradient of one tap's weights; after the taps, of the bias.

    ``sum over pixels of a[shift] * q * near``, where the bias meets one in place of ``near``.
    """
    TAPS: tl.constexpr = KH * KW
    tap = tl.program_id(0) % (TAPS + 1)
    head = tl.program_id(0) // (TAPS + 1) % heads
    chunk = tl.program_id(0) // (TAPS + 1) // heads
    dy, dx = tap // KW - KH // 2, tap % KW - KW // 2
    dtype: tl.constexpr = q.dtype.element_ty
    total = tl.zeros((SHIFTS, BLOCK_D), tl.float32)
    # Only the chunk's first pixel needs 64 bits: the others are counted from its row's start.
    begin = chunk.to(tl.int64) * CHUNK
    count = tl.minimum(pixels - begin, CHUNK).to(tl.int32)
    left, row = (begin % W).to(tl.int32), begin // W
    top, first_image = (row % H).to(tl.int32), (row // H).to(tl.int32)
    for first in range(0, count, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        valid = pixel < count
        x = left + pixel
        y = top + x // W
        x = x % W
        image = first_image + y // H
        y = y % H
        vectors = _neighbours(
            q, y, x, valid, image, head, 0, 0, q_b, q_y, q_x, q_h, q_d, H, W, D, BLOCK_D
        )  # fmt: skip
        if tap < TAPS:
            vectors *= _neighbours(
                near, y, x, valid, image, head, dy, dx,
                near_b, near_y, near_x, near_h, near_d, H, W, D, BLOCK_D,
            )  # fmt: skip
        shift = tl.arange(0, SHIFTS)
        plane = ((image.to(tl.int64) * heads + head) * TAPS)[:, None] + shift[None, :]
        weights = tl.load(
            a + plane * (H * W) + (y * W + x)[:, None],
            mask=valid[:, None] & (shift < TAPS)[None, :], other=0.0,
        ).to(dtype)  # (M, SHIFTS)  # fmt: skip
        total = tl.dot(tl.trans(weights), vectors, total, input_precision=PRECISION)
    shift = tl.arange(0, SHIFTS)
    row = ((chunk.to(tl.int64) * heads + head) * (TAPS + 1) + tap) * TAPS + shift
    store_rows(partial, row * D, shift < TAPS, total, D, BLOCK_D)
