"""Scaling as an operator of PyTorch: its bodies.

Off the CPU compilers and autograd see the portable form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result, empty
from foveate.ops.scale import native, portable
from foveate.ops.scale._arguments import Arguments


def _portable(a: Arguments, flags: Flags) -> Result:
    return portable.scale(a), None


def _native(a: Arguments, flags: Flags) -> Result:
    return native.scale(a), None


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.scale_backward(given.grad_out, a)


def _limits(backend: str, a: Arguments) -> str:
    if backend == "native" and a.x.dtype is not torch.float32:
        return f"it scales float32, and got {a.x.dtype}"
    return ""


scale = Operator(
    name="scale",
    arguments=Arguments,
    maps=("x",),
    parameters=("first", "second", "third"),
    portable=_portable,
    exported=_portable,
    any_derivative=lambda a: (portable.scale(a), None),
    native=Body(_native, _native_backward),
    triton=None,
    limits=_limits,
    kept_shape=lambda a, training: None,
    output=lambda a: empty(a.x.shape, a.x),
    flops=lambda a: 0,
    backward_flops=lambda a, parameter_grads: 0,
    opaque_on="cpu",
    keeps_format=True,
)
