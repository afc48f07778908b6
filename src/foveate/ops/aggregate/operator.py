"""Local aggregation as an operator of PyTorch: its bodies, what they keep, its FLOPs.

With weights that are logits the forward keeps the probabilities when a backward may follow. FLOPs
are counted by meaning: ``H * W * taps * S * G`` multiply-adds an image at every border, twice as
many going backward.

Off the CPU compilers and autograd see the portable form: there are no kernels there that would be
worth hiding its products from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result
from foveate.ops.aggregate import native, portable
from foveate.ops.aggregate._arguments import Arguments


def _portable(a: Arguments, flags: Flags) -> Result:
    out, weights = portable.local_aggregate(a)
    return out, weights if flags.training and a.normalize else None


def _any_derivative(a: Arguments) -> Result:
    out, weights = portable.local_aggregate(a)
    return out, weights if a.normalize else None


def _native(a: Arguments, flags: Flags) -> Result:
    return native.local_aggregate(a, flags.training)


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.local_aggregate_backward(given.grad_out, given.kept, a)


def _flops(a: Arguments) -> int:
    batch, height, width, share, groups = a.values
    taps = a.kernel_size[0] * a.kernel_size[1]
    return 2 * batch * height * width * taps * share * groups


def _output(a: Arguments) -> Tensor:
    return torch.empty_like(a.values, memory_format=torch.contiguous_format)


local_aggregate = Operator(
    name="local_aggregate",
    arguments=Arguments,
    maps=("values", "weights"),
    parameters=(),
    output=_output,
    portable=_portable,
    exported=_portable,
    any_derivative=_any_derivative,
    native=Body(_native, _native_backward),
    triton=None,
    limits=lambda backend, a: "",
    kept_shape=lambda a, training: a.weights.shape if training and a.normalize else None,
    flops=_flops,
    backward_flops=lambda a, parameter_grads: 2 * _flops(a),
    opaque_on="cpu",
)
