"""Axis pooling by the compiled CPU kernel ``native/gates/axis_pool.c``, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops.axis_pool._arguments import (
    LEFT,
    Arguments,
    plane_shape,
    sizes,
    statistics_of,
)
from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, AxisPoolArguments, View
from foveate.ops.native.tensors import in_memory, like_map, map_axes


def axis_pool(a: Arguments, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Planes ``(B, numbers)`` and, if ``keep``, where their maxima were."""
    batch, statistics = a.x.shape[0], statistics_of(a.largest)
    out = torch.empty(batch, sum(sizes(a.x.shape, a.axes, statistics)))
    index = torch.empty(batch, sum(sizes(a.x.shape, a.axes, 1))) if keep else None
    x = in_memory(a.x, map_axes(a.x))
    library.kernel("axis_pool_forward")(_arguments(a, out, index)._replace(x=x.data_ptr()))
    return out, index


def axis_pool_backward(grad_out: Tensor, index: Tensor, a: Arguments) -> Tensor:
    """The gradient of x."""
    dx, grad_out, index = like_map(a.x), grad_out.contiguous(), index.contiguous()
    arguments = _arguments(a, grad_out, index if a.largest else None)
    library.kernel("axis_pool_backward")(arguments._replace(dx=dx.data_ptr()))
    return dx


def _arguments(a: Arguments, out: Tensor, index: Tensor | None) -> AxisPoolArguments:
    axes, shape = map_axes(a.x), a.x.shape
    over = _planes(a, out, statistics_of(a.largest), axes)
    at = {} if index is None else _planes(a, index, 1, axes)
    return AxisPoolArguments(
        *(over.get(axis, ABSENT) for axis in axes),
        *(at.get(axis, ABSENT) for axis in axes),
        torch.get_num_threads(),
        shape[0],
        *(shape[axis] for axis in axes),
        a.largest,
    )


def _planes(a: Arguments, packed: Tensor, statistics: int, axes: Sequence[int]) -> dict[int, View]:
    """The planes that lie one after the other in ``packed``, by the axis that was pooled.

    A plane's two axes come in the order of the map's memory.
    """
    found, at, image = {}, packed.data_ptr(), packed.stride(0)
    for axis in a.axes:
        rows, columns = plane_shape(a.x.shape, axis)
        in_order = axes.index(LEFT[axis][0]) < axes.index(LEFT[axis][1])
        strides = (columns, 1) if in_order else (1, columns)
        found[axis] = View(at, image, *strides, rows * columns)
        at += statistics * rows * columns * packed.element_size()
    return found
