"""Local relations as an operator of PyTorch: its bodies. It multiplies nothing: no FLOPs.

Off the CPU compilers and autograd see the portable form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result
from foveate.ops.relation import native, portable
from foveate.ops.relation._arguments import Arguments, output


def _portable(a: Arguments, flags: Flags) -> Result:
    return portable.local_relation(a), None


def _any_derivative(a: Arguments) -> Result:
    return portable.local_relation(a), None


def _native(a: Arguments, flags: Flags) -> Result:
    return native.local_relation(a), None


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.local_relation_backward(given.grad_out, given.parameter_grads, a)


local_relation = Operator(
    name="local_relation",
    arguments=Arguments,
    maps=("q", "k"),
    parameters=("scale", "shift"),
    output=output,
    portable=_portable,
    exported=_portable,
    any_derivative=_any_derivative,
    native=Body(_native, _native_backward),
    triton=None,
    limits=lambda backend, a: "",
    kept_shape=lambda a, training: None,
    flops=lambda a: 0,
    backward_flops=lambda a, parameter_grads: 0,
    opaque_on="cpu",
)
