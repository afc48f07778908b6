"""The narrow convolution as an operator of PyTorch: its bodies and its FLOPs.

FLOPs are counted as PyTorch counts those of a convolution: two a multiply-add, taps on the border
included. Off the CPU compilers and autograd see the portable form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result, empty
from foveate.ops.narrow_conv import native, portable
from foveate.ops.narrow_conv._arguments import Arguments

MOST_CHANNELS = 4
"""Channels in or out from which on PyTorch's convolution is as fast."""


def _portable(a: Arguments, flags: Flags) -> Result:
    return portable.narrow_conv(a), None


def _native(a: Arguments, flags: Flags) -> Result:
    return native.narrow_conv(a), None


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.narrow_conv_backward(given.grad_out, given.parameter_grads, a)


def _limits(backend: str, a: Arguments) -> str:
    if backend != "native":
        return ""
    if a.x.dtype is not torch.float32:
        return f"it convolves float32, and got {a.x.dtype}"
    if max(a.weight.shape[:2]) > MOST_CHANNELS:
        return f"it takes up to {MOST_CHANNELS} channels, and got {tuple(a.weight.shape[:2])}"
    return ""


def _flops(a: Arguments) -> int:
    """Of one product of x and the weight, both of which are shapes."""
    return 2 * a.x[0] * a.x[2] * a.x[3] * math.prod(a.weight)


narrow_conv = Operator(
    name="narrow_conv",
    arguments=Arguments,
    maps=("x",),
    parameters=("weight",),
    portable=_portable,
    exported=_portable,
    any_derivative=lambda a: (portable.narrow_conv(a), None),
    native=Body(_native, _native_backward),
    triton=None,
    limits=_limits,
    kept_shape=lambda a, training: None,
    output=lambda a: empty((a.x.shape[0], a.weight.shape[0], *a.x.shape[2:]), a.x),
    flops=_flops,
    backward_flops=lambda a, parameter_grads: _flops(a) * (2 if parameter_grads else 1),
    opaque_on="cpu",
    keeps_format=True,
)
