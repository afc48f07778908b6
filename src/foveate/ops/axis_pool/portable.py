"""Axis pooling in plain PyTorch, one axis after the other: its meaning, on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.ops.axis_pool._arguments import LEFT, Arguments


def amax(x: Tensor, axis: int) -> Tensor:
    """The maximum; equals share its gradient."""
    return x.amax(axis)


def first_amax(x: Tensor, axis: int) -> Tensor:
    """The maximum; the first of equals has its gradient."""
    return x.max(axis).values


def planes(a: Arguments, maximum: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """For each axis ``(B, statistics, rows, columns)``."""
    found = []
    for axis in a.axes:
        pooled = [maximum(a.x, axis)] if a.largest else []
        plane = torch.stack([*pooled, a.x.mean(axis)], 1)
        rows, columns = LEFT[axis]
        found.append(plane if rows < columns else plane.transpose(2, 3))
    return found
