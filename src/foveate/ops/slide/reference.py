"""Slide attention as it is defined, one query at a time: slow, plain, what the bodies must equal.

With taps j of a window around the query's position p, shift channel n has the key and value

    k_n(p) = sum over j of key_weight[n, j] * k(p + j) + key_bias[n]
    v_n(p) = sum over j of value_weight[n, j] * v(p + j) + value_bias[n]

(products channel by channel; k and v are zero outside the map), and the output is

    out(p) = sum over n of softmax_n(scale * q(p) . k_n(p)) v_n(p)
"""

from __future__ import annotations

import torch
from torch import Tensor


def slide_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: tuple[int, int],
    scale: float | None = None,
) -> Tensor:
    """Output in float64, differentiable; arguments as for the public function."""
    tensors = (q, k, v, key_weight, key_bias, value_weight, value_bias)
    q, k, v, key_weight, key_bias, value_weight, value_bias = (x.double() for x in tensors)
    height, width, _, dim = q.shape[1:]
    scale = dim**-0.5 if scale is None else scale
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            keys = _shift_channels(k, key_weight, key_bias, y, x, kernel_size)
            values = _shift_channels(v, value_weight, value_bias, y, x, kernel_size)
            logits = scale * torch.einsum("bhd,bhnd->bhn", q[:, y, x], keys)
            row.append(torch.einsum("bhn,bhnd->bhd", logits.softmax(-1), values))
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def _shift_channels(
    maps: Tensor, weight: Tensor, bias: Tensor, y: int, x: int, kernel: tuple[int, int]
) -> Tensor:
    """What the shift channels hold for the query at (y, x): ``(B, h, n, D)``."""
    height, width = maps.shape[1:3]
    taps, near = [], []
    for tap in range(kernel[0] * kernel[1]):
        row = y - kernel[0] // 2 + tap // kernel[1]
        column = x - kernel[1] // 2 + tap % kernel[1]
        if 0 <= row < height and 0 <= column < width:
            taps.append(tap)
            near.append(maps[:, row, column])  # (B, h, D)
    return torch.einsum("ntd,bhtd->bhnd", weight[:, taps], torch.stack(near, 2)) + bias
