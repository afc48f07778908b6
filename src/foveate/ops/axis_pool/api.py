"""The public function of axis pooling: checks what it is given, then chooses how to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.arguments import one_of
from foveate.ops._maps import check_map
from foveate.ops._operator import explainable
from foveate.ops.axis_pool import operator, portable
from foveate.ops.axis_pool._arguments import Arguments, planes, statistics_of

AXES = {"channels": 1, "height": 2, "width": 3}


def axis_pool(x: Tensor, axes: Sequence[str], largest: bool = True) -> list[Tensor]:
    """Pool a map along one axis, for each of several axes, reading it once.

    Pooled along channels it leaves a plane (H, W), along height (W, C), along width (H, C):

        [max over the axis of x, mean over the axis of x]

    The gradient of a maximum goes to the first of its equals.

    Args:
        x: ``(B, C, H, W)``, contiguous or channels last; another is copied first.
        axes: names of those to pool along, each for itself: channels, height, width.
        largest: whether the maximum is wanted beside the mean.

    Returns:
        For each of the axes ``(B, 2, rows, columns)``, or ``(B, 1, rows, columns)`` of means alone.

    Raises:
        TypeError: if ``x`` is no tensor.
        ValueError: if it is no floating map, or an axis is unknown or named twice.
    """
    a = _checked(x, axes, largest)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return portable.planes(a, portable.amax)  # which no runtime has to cut apart again
    return planes(operator.axis_pool(a)[0], x.shape, a.axes, statistics_of(largest))


def _checked(x: Tensor, axes: Sequence[str], largest: bool) -> Arguments:
    """The arguments in the form that every body takes."""
    check_map(x)
    if isinstance(axes, str) or not axes or len(set(axes)) != len(axes):
        raise ValueError(f"axes must name one or more of {list(AXES)}, each once, got {axes!r}")
    return Arguments(x, [AXES[one_of(axis, AXES, "axis")] for axis in axes], bool(largest))


explainable(operator.axis_pool, axis_pool, _checked)
