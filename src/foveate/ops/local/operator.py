"""Local attention as an operator of PyTorch: its bodies, what they keep, its FLOPs.

The forward keeps the log-sum-exp, never the weights. Where nobody reads it, the portable form does
without and leaves it NaN. FLOPs count ``kh * kw`` keys a query at every border.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from foveate.ops._backends import COMPILED
from foveate.ops._operator import Body, Flags, Given, Operator, Result, product_flops
from foveate.ops.local import export, native, portable
from foveate.ops.local._arguments import Arguments

_LONGEST = 512  # side of a window by Triton; longer ones would break its arithmetic


def _limits(backend: str, a: Arguments) -> str:
    if backend == "triton" and max(a.kernel_size) > _LONGEST:
        return f"it takes windows up to {_LONGEST} long, and got {a.kernel_size}"
    return ""


def _portable(a: Arguments, flags: Flags) -> Result:
    # A compiled backward needs the log-sum-exp, whatever made the forward.
    compiled_may_follow = flags.training and any(
        not local_attention.unsupported(a, name) for name in COMPILED
    )
    return portable.local_attention(a, with_lse=flags.return_kept or compiled_may_follow)


def _exported(a: Arguments, flags: Flags) -> Result:
    if a.dropout_p or a.key_mask is not None:
        return _portable(a, flags)
    return export.local_attention(a)


def _native(a: Arguments, flags: Flags) -> Result:
    return native.local_attention(*a, keep=flags.return_kept or flags.training)


def _native_backward(given: Given, a: Arguments) -> Sequence[Tensor]:
    return native.local_attention_backward(
        given.grad_out, given.grad_kept, given.kept, given.parameter_grads, *a
    )


def _triton() -> ModuleType:
    from foveate.ops.local import triton

    return triton


def _pairs(a: Arguments) -> int:
    """Pairs of a query and a key; ``a.q`` is a shape."""
    batch, height, width, heads, _ = a.q
    return batch * height * width * heads * a.kernel_size[0] * a.kernel_size[1]


local_attention = Operator(
    name="local_attention",
    arguments=Arguments,
    parameters=("bias",),
    portable=_portable,
    exported=_exported,
    any_derivative=portable.local_attention,
    native=Body(_native, _native_backward),
    triton=_triton,
    limits=_limits,
    kept_shape=lambda a, training: a.q.shape[:4],
    flops=lambda a: product_flops(a, _pairs(a), 1, 1),
    backward_flops=lambda a, parameter_grads: product_flops(a, _pairs(a), 3, 2),
    kept_has_gradient=True,
    triton_reads_out=True,
)
