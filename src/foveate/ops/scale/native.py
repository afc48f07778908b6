"""Scaling by the compiled CPU kernel ``native/gates/scale.c``, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, Combination, ScaleArguments, View
from foveate.ops.native.tensors import aligned, in_memory, like_map, map_axes
from foveate.ops.scale._arguments import Arguments

_MOST = 3


def scale(a: Arguments) -> Tensor:
    """``x`` times the factor."""
    out = like_map(a.x)
    _run("scale_forward", a, out)
    return out


def scale_backward(grad_out: Tensor, a: Arguments) -> list[Tensor]:
    """Gradients of x and of the factors."""
    grads = [like_map(a.x), *(like_map(f) for f in a.factors)]
    _run("scale_backward", a, grads[0], grad_out, grads[1:])
    return grads


def _run(
    kernel: str,
    a: Arguments,
    out: Tensor,
    grad_out: Tensor | None = None,
    d_factors: Sequence[Tensor] = (),
) -> None:
    axes = map_axes(a.x)
    x, factors = in_memory(a.x, axes), [_in_place(f) for f in a.factors]
    grad = None if grad_out is None else in_memory(grad_out, axes)
    arguments = ScaleArguments(
        *_views(factors, axes),
        *_views(d_factors, axes),
        torch.get_num_threads(),
        a.x.shape[0],
        *(a.x.shape[axis] for axis in axes),
        Combination[a.combination.upper()],
        x.data_ptr(),
        0 if grad is None else grad.data_ptr(),
        out.data_ptr(),
    )
    library.kernel(kernel)(arguments)


def _in_place(factor: Tensor) -> Tensor:
    """A factor of any strides but those that repeat numbers, for which there are axes of one."""
    sizes = zip(factor.shape, factor.stride(), strict=True)
    repeats = any(length > 1 and step == 0 for length, step in sizes)
    return factor.contiguous() if repeats else aligned(factor)


def _views(factors: Sequence[Tensor], axes: Sequence[int]) -> list[View]:
    """Factors by the map's axes as they lie in memory; no step along those of length one."""
    views = [_view(f, axes) for f in factors]
    return [*views, *[ABSENT] * (_MOST - len(views))]


def _view(x: Tensor, axes: Sequence[int]) -> View:
    outer, middle, inner = (x.stride(axis) if x.shape[axis] > 1 else 0 for axis in axes)
    return View(x.data_ptr(), x.stride(0), outer, middle, 0, inner)
