"""Axis pooling as an operator of PyTorch: its bodies and what they keep.

The planes of all axes are one tensor ``(B, numbers)``. When a backward may follow, the forward
keeps which of a line's numbers was the largest. Off the CPU compilers and autograd see the portable
form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result, empty
from foveate.ops.axis_pool import native, portable
from foveate.ops.axis_pool._arguments import Arguments, sizes, statistics_of


def _any_derivative(a: Arguments) -> Result:
    found = portable.planes(a, portable.first_amax)
    return torch.cat([plane.flatten(1) for plane in found], 1), None


def _portable(a: Arguments, flags: Flags) -> Result:
    return _any_derivative(a)


def _native(a: Arguments, flags: Flags) -> Result:
    return native.axis_pool(a, flags.training and a.largest)


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return [native.axis_pool_backward(given.grad_out, given.kept, a)]


def _limits(backend: str, a: Arguments) -> str:
    if backend == "native" and a.x.dtype is not torch.float32:
        return f"it pools float32, and got {a.x.dtype}"
    return ""


def _output(a: Arguments) -> Tensor:
    return empty((a.x.shape[0], sum(sizes(a.x.shape, a.axes, statistics_of(a.largest)))), a.x)


def _kept_shape(a: Arguments, training: bool) -> Sequence[int] | None:
    return (a.x.shape[0], sum(sizes(a.x.shape, a.axes, 1))) if training and a.largest else None


axis_pool = Operator(
    name="axis_pool",
    arguments=Arguments,
    maps=("x",),
    parameters=(),
    portable=_portable,
    exported=_portable,
    any_derivative=_any_derivative,
    native=Body(_native, _native_backward),
    triton=None,
    limits=_limits,
    kept_shape=_kept_shape,
    output=_output,
    flops=lambda a: 0,
    backward_flops=lambda a, parameter_grads: 0,
    opaque_on="cpu",
    keeps_format=True,
)
