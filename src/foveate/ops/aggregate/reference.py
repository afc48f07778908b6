"""Local aggregation as it is defined, one tap at a time: slow, plain, what the bodies must equal.

    out(p, s, g) = sum over taps t of w(p, t, g) * v(p + t, s, g)

where w are the weights, or their softmax over the taps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_aggregate(
    values: Tensor,
    weights: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    border: str = "zero",
    normalize: bool = False,
) -> Tensor:
    """Output in float64, differentiable; arguments as for the public function."""
    values, weights = values.double(), weights.double()
    if normalize:
        weights = weights.softmax(3)
    height, width = values.shape[1:3]
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            total = torch.zeros_like(values[:, 0, 0])
            for tap in range(kernel_size[0] * kernel_size[1]):
                down = y + (tap // kernel_size[1] - kernel_size[0] // 2) * dilation[0]
                across = x + (tap % kernel_size[1] - kernel_size[1] // 2) * dilation[1]
                there = _place(down, height, border), _place(across, width, border)
                if None not in there:
                    total = total + weights[:, y, x, tap, None] * values[:, there[0], there[1]]
            row.append(total)
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def _place(at: int, length: int, border: str) -> int | None:
    """Where a tap at this place of an axis reads; None beyond the map."""
    if 0 <= at < length:
        return at
    if border == "zero":
        return None
    turned = -at if at < 0 else 2 * (length - 1) - at
    return turned if 0 <= turned < length else (length - 1 if at < 0 else 0)
