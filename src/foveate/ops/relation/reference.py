"""Local relations as they are defined, one tap at a time: slow, plain, what the bodies must equal.

A difference is ``out(p, t) = q(p) - k(p + t)``; a concatenation is q(p), then k(p + t) by channels,
then taps. With a scale and a shift it becomes ``relu(scale * out + shift)``.
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
    scale: Tensor | None = None,
    shift: Tensor | None = None,
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
        out = torch.stack([q - key for key in taps], 3)
    else:
        out = torch.cat([q, torch.stack(taps, -1).flatten(3)], -1)
    if scale is None or shift is None:
        return out
    return torch.relu(scale.double() * out + shift.double())


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
