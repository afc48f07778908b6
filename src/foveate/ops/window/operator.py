"""Window attention as an operator of PyTorch: its bodies and its FLOPs.

Nothing is kept for the backward but the arguments: it makes the weights of a window again while it
holds the window. FLOPs are counted by meaning: every query of the padded map meets every key of its
window in two products, in five going backward.

Off the CPU compilers and autograd see the portable form. The Triton kernels run only where they
are asked for: nobody has measured them beside ``scaled_dot_product_attention`` on windows cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foveate.ops._backends import requested_backend
from foveate.ops._operator import Body, Flags, Given, Operator, Result, product_flops
from foveate.ops.window import export, native, portable
from foveate.ops.window._arguments import Arguments
from foveate.ops.window.windows import Windows


def _limits(backend: str, a: Arguments) -> str:
    rows, columns = a.window_size
    if backend == "native" and rows * columns > native.MOST_CELLS:
        return f"it takes windows of up to {native.MOST_CELLS} cells, and got {rows}x{columns}"
    if backend == "triton" and requested_backend() != "triton":
        return 'it has not been timed on a GPU, and runs in use_backend("triton") alone'
    return ""


def _portable(a: Arguments, flags: Flags) -> Result:
    return portable.window_attention(a), None


def _exported(a: Arguments, flags: Flags) -> Result:
    return _portable(a, flags) if a.dropout_p else (export.window_attention(a), None)


def _any_derivative(a: Arguments) -> Result:
    """By the one of the forms of ``scaled_dot_product_attention`` that has every derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return portable.window_attention(a), None


def _native(a: Arguments, flags: Flags) -> Result:
    return native.window_attention(*a), None


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.window_attention_backward(given.grad_out, given.parameter_grads, *a)


def _triton() -> ModuleType:
    from foveate.ops.window import triton

    return triton


def _pairs(a: Arguments) -> int:
    """Pairs of a query and a key; ``a.q`` is a shape."""
    batch, height, width, heads, _ = a.q
    rows, columns = a.window_size
    return batch * heads * Windows((height, width), (rows, columns)).pairs


window_attention = Operator(
    name="window_attention",
    arguments=Arguments,
    parameters=("bias",),
    portable=_portable,
    exported=_exported,
    any_derivative=_any_derivative,
    native=Body(_native, _native_backward),
    triton=_triton,
    limits=_limits,
    kept_shape=lambda a, training: None,
    flops=lambda a: product_flops(a, _pairs(a), 1, 1),
    backward_flops=lambda a, parameter_grads: product_flops(a, _pairs(a), 3, 2),
    opaque_on="cpu",
)
