"""Slide attention as an operator of PyTorch: its bodies, what they keep, its FLOPs.

When a backward may follow, the forward keeps the probabilities: one number a query and shift
channel.

FLOPs are counted by the operator's meaning, whatever the backend: the key and value of every shift
channel are depthwise convolutions (``taps`` multiply-adds a channel), and meet the query and its
probability in two products: ``H * W * heads * N * (taps + 1) * (D + Dv)`` multiply-adds an image.
The backward counts two such products for each, one where the convolutions' weights want no
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from foveate.ops._operator import Body, Flags, Given, Operator, Result, product_flops
from foveate.ops.slide import export, native, portable
from foveate.ops.slide._arguments import Arguments, probabilities_shape


def _portable(a: Arguments, flags: Flags) -> Result:
    out, probabilities = _any_derivative(a)
    return out, probabilities if flags.training else None


def _exported(a: Arguments, flags: Flags) -> Result:
    return _portable(a, flags) if a.dropout_p else (export.slide_attention(a), None)


def _any_derivative(a: Arguments) -> Result:
    out, probabilities = portable.slide_attention(a)
    return out, probabilities.permute(0, 3, 4, 1, 2)  # (B, heads, N, H, W)


def _native(a: Arguments, flags: Flags) -> Result:
    return native.slide_attention(*a, flags.training)


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.slide_attention_backward(given.grad_out, given.kept, given.parameter_grads, *a)


def _triton() -> ModuleType:
    from foveate.ops.slide import triton

    return triton


def _flops(a: Arguments, products_a_tap: int, products: int) -> int:
    """FLOPs of so many products with what a shift channel's tap, and with what a channel, holds."""
    batch, height, width, heads, _ = a.q
    taps = a.kernel_size[0] * a.kernel_size[1]
    of_each = products_a_tap * taps + products
    return product_flops(a, batch * height * width * heads * taps, of_each, of_each)


slide_attention = Operator(
    name="slide_attention",
    arguments=Arguments,
    parameters=("key_weight", "key_bias", "value_weight", "value_bias"),
    portable=_portable,
    exported=_exported,
    any_derivative=_any_derivative,
    native=Body(_native, _native_backward),
    triton=_triton,
    limits=lambda backend, a: "",
    kept_shape=lambda a, training: probabilities_shape(a.q, a.kernel_size) if training else None,
    flops=lambda a: _flops(a, 1, 1),
    backward_flops=lambda a, parameter_grads: _flops(a, 2 if parameter_grads else 1, 2),
)
