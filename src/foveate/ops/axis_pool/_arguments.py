"""What every body of axis pooling takes, and how the planes of several axes are one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of axis pooling; the public function documents them.

    Attributes:
        x: ``(B, C, H, W)``.
        axes: those that are pooled, numbers of x's axes.
        largest: whether the maximum stands before the mean.
    """

    x: Tensor
    axes: Sequence[int]
    largest: bool


LEFT = {1: (2, 3), 2: (3, 1), 3: (2, 1)}
"""The axes of the plane that is left when an axis is pooled, in their order there."""


def statistics_of(largest: bool) -> int:
    """How many numbers a line of the map becomes."""
    return 2 if largest else 1


def plane_shape(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """Height and width of the plane that is left of a map of this shape."""
    first, second = LEFT[axis]
    return shape[first], shape[second]


def sizes(shape: Sequence[int], axes: Sequence[int], statistics: int) -> list[int]:
    """How many numbers of each image the planes have, axis by axis."""
    planes = (plane_shape(shape, axis) for axis in axes)
    return [statistics * rows * columns for rows, columns in planes]


def planes(
    packed: Tensor, shape: Sequence[int], axes: Sequence[int], statistics: int
) -> list[Tensor]:
    """Views ``(B, statistics, rows, columns)`` of planes that lie one after the other."""
    batch = packed.shape[0]
    if len(axes) == 1:
        return [packed.view(batch, statistics, *plane_shape(shape, axes[0]))]
    parts = packed.split(sizes(shape, axes, statistics), 1)
    return [
        part.view(batch, statistics, *plane_shape(shape, axis))
        for part, axis in zip(parts, axes, strict=True)
    ]
