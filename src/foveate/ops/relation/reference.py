"""Local relations as they are defined, one tap at a time: slow, plain, what the bodies must equal.

difference      out(p, t) = q(p) - k(p + t)
concatenation   out(p) = q(p), then k(p + t) by channels, then taps
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_relation(
    q: Tensor,
    k: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    relation: str = "difference",
    border: str = "zero",
) -> Tensor:
    """The relation in float64, differentiable; arguments as for the public function."""
    q, k = q.double(), k.double()
    taps = []
    for row in range(kernel_size[0]):
        for column in range(kernel_size[1]):
            down = (row - kernel_size[0] // 2) * dilation[0]
            across = (column - kernel_size[1] // 2) * dilation[1]
            taps.append(_moved(_moved(k, 1, down, border), 2, across, border))
    if relation == "difference":
        return torch.stack([q - key for key in taps], 3)
    return torch.cat([q, torch.stack(taps, -1).flatten(3)], -1)


def _moved(x: Tensor, axis: int, by: int, border: str) -> Tensor:
    """What position p of an axis reads at p + ``by``."""
    length, found = x.shape[axis], []
    for at in range(by, length + by):
        there = at
        if border == "reflect" and not 0 <= at < length:
            turned = -at if at < 0 else 2 * (length - 1) - at
            there = turned if 0 <= turned < length else (length - 1 if at < 0 else 0)
        inside = 0 <= there < length
        found.append(x.select(axis, there) if inside else torch.zeros_like(x.select(axis, 0)))
    return torch.stack(found, axis)
