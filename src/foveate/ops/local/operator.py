"""Local attention as an operator of PyTorch: what compilers, counters and autograd see.

``foveate::local_attention`` and its backward are opaque to them; which backend computes is
decided when they run. Only the Triton kernels are shown to the compiler, which then starts them
itself. The forward keeps the log-sum-exp, never the weights; asked to do without, it may leave it
NaN, as only the compiled backends' backward needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.utils.flop_counter import register_flop_formula

from foveate.ops._backends import (
    as_told,
    choose,
    gradients_by_place,
    has_tangent,
    is_shown,
    launching_on,
    obstacles,
    recording,
    told,
)
from foveate.ops.local import native, portable

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, int[] kernel_size, int[] dilation, Tensor? bias, float scale, "
    "str border, Tensor? key_mask, float dropout_p, Tensor? seed"
)
_library = torch.library.Library("foveate", "FRAGMENT")
_library.define(f"local_attention({_ARGUMENTS}, bool with_lse=True) -> (Tensor, Tensor)")
_library.define(
    "local_attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor? out, Tensor lse, "
    f"bool bias_grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
local_attention = torch.ops.foveate.local_attention.default
_backward = torch.ops.foveate.local_attention_backward.default


_LONGEST = 512  # side of a window by Triton; longer ones would break its arithmetic


def why_not(q: Tensor, k: Tensor, v: Tensor, kernel_size: list[int], *rest: Any) -> dict[str, str]:
    """Why each backend cannot take these arguments; empty where it can."""
    against = obstacles(q, k, v, rest[1], rest[4])
    if not against["triton"] and max(kernel_size) > _LONGEST:
        against["triton"] = f"it takes windows up to {_LONGEST} long, and got {kernel_size}"
    return against


def _backend(*arguments: Any) -> str:
    return choose("local_attention", why_not(*arguments))


def _kernels() -> ModuleType:
    """The Triton kernels; loaded by their first call."""
    from foveate.ops.local import triton

    return triton


def _split(*arguments: Any) -> tuple[tuple, bool]:
    """The arguments without ``with_lse``, which the dispatcher leaves out when it is True."""
    return arguments[:11], arguments[11] if len(arguments) > 11 else True


@torch.library.impl(_library, "local_attention", "CompositeExplicitAutograd")
def _run(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    arguments, with_lse = _split(q, k, v, *rest)
    backend = _backend(q, k, v, *rest)
    if backend == "native":
        out, lse = native.local_attention(*arguments)
    elif backend == "triton":
        with launching_on(q.device):
            out, lse = _kernels().local_attention(*arguments)
    else:
        out, lse = portable.local_attention(*arguments, with_lse=with_lse)
    if lse is None:
        lse = q.new_full(q.shape[:4], float("nan"), dtype=_lse_dtype(q))
    return out.contiguous(), lse.contiguous()


@torch.library.register_fake("foveate::local_attention", lib=_library)
def _fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:4], v.shape[4])), q.new_empty(q.shape[:4], dtype=_lse_dtype(q))


@torch.library.impl(_library, "local_attention_backward", "CompositeExplicitAutograd")
def _run_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor | None,
    lse: Tensor,
    bias_grad: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    backend = _backend(q, k, v, *rest)
    if backend == "native":
        return native.local_attention_backward(grad_out, grad_lse, lse, bias_grad, q, k, v, *rest)
    if backend == "triton":
        with launching_on(q.device):
            return _kernels().local_attention_backward(
                grad_out, grad_lse, out, lse, bias_grad, q, k, v, *rest
            )
    with recording():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        bias = rest[2].detach().requires_grad_() if bias_grad else rest[2]
        grads = _differentiate(
            (*leaves, *rest[:2], bias, *rest[3:]),
            (*leaves, bias) if bias_grad else leaves,
            grad_out,
            grad_lse,
        )
    d_bias = grads[3] if bias_grad else q.new_empty(0)
    return *(grad.contiguous() for grad in grads[:3]), d_bias.contiguous()


@torch.library.register_fake("foveate::local_attention_backward", lib=_library)
def _fake_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor | None,
    lse: Tensor,
    bias_grad: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_bias = q.new_empty(0) if bias is None or not bias_grad else bias.new_empty(bias.shape)
    return *(x.new_empty(x.shape) for x in (q, k, v)), d_bias


@torch.library.register_torch_dispatch(
    "foveate::local_attention", FunctionalTensorMode, lib=_library
)
def _shown(mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
    if not is_shown(_backend(*args)):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode:
        return _kernels().local_attention(*_split(*args)[0])


@torch.library.register_torch_dispatch(
    "foveate::local_attention_backward", FunctionalTensorMode, lib=_library
)
def _shown_backward(mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
    if not is_shown(_backend(*args[5:])):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode:
        return _kernels().local_attention_backward(*args)


def _differentiate(
    arguments: Sequence[Any],
    wanted: list[Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    *,
    again: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients through the portable form, differentiable ``again`` if asked."""
    with_lse = again or grad_lse is not None
    out, lse = portable.local_attention(*arguments, with_lse=with_lse)
    results, grads = ([out], [grad_out]) if grad_lse is None else ([out, lse], [grad_out, grad_lse])
    return torch.autograd.grad(results, wanted, grads, create_graph=again, materialize_grads=True)


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        arguments, with_lse = _split(*arguments)
        q, k, v, kernel_size, dilation, bias, scale, border, key_mask, dropout_p, seed = arguments
        against = why_not(*arguments)
        compiled_may_follow = not (against["native"] and against["triton"])
        with torch._C._AutoDispatchBelowAutograd():
            out, lse = local_attention(*arguments, with_lse or compiled_may_follow)
        output = None if against["triton"] else out
        ctx.save_for_backward(output, lse, q, k, v, bias, key_mask, seed)
        ctx.settings = kernel_size, dilation, scale, border, dropout_p
        ctx.told = told()
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple:
        out, lse, q, k, v, bias, key_mask, seed = ctx.saved_tensors
        kernel_size, dilation, scale, border, dropout_p = ctx.settings
        if grad_out is None:
            grad_out = v.new_zeros((*q.shape[:4], v.shape[4]))
        arguments = q, k, v, kernel_size, dilation, bias, scale, border, key_mask, dropout_p, seed
        bias_grad = ctx.needs_input_grad[5]
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            places = [i for i in (0, 1, 2, 5) if ctx.needs_input_grad[i]]
            differentiate = partial(
                _differentiate, grad_out=grad_out, grad_lse=grad_lse, again=True
            )
            found = gradients_by_place(arguments, places, differentiate)
            return tuple(found.get(i) for i in range(len(arguments) + 1))
        with as_told(ctx.told):
            dq, dk, dv, d_bias = _backward(grad_out, grad_lse, out, lse, bias_grad, *arguments)
        return dq, dk, dv, None, None, d_bias if bias_grad else None, *[None] * 6


@torch.library.impl(_library, "local_attention", "Autograd")
def _with_autograd(*arguments: Any) -> tuple[Tensor, Tensor]:
    tensors = (arguments[0], arguments[1], arguments[2], arguments[5])
    if has_tangent(*tensors):
        return portable.local_attention(*_split(*arguments)[0])
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        inputs, with_lse = _split(*arguments)
        return _LocalAttention.apply(*inputs, with_lse)
    with torch._C._AutoDispatchBelowAutograd():
        return local_attention(*arguments)


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype is torch.float64 else torch.float32


def _products(q_shape: Any, v_shape: Any, kernel_size: list[int], of_q: int, of_v: int) -> int:
    """FLOPs of so many products with channels of q and of v, kh * kw keys a query."""
    batch, height, width, heads, dim = q_shape
    pairs = batch * height * width * heads * kernel_size[0] * kernel_size[1]
    return 2 * pairs * (of_q * dim + of_v * v_shape[-1])


@register_flop_formula(torch.ops.foveate.local_attention)
def _flops(
    q_shape: Any, k_shape: Any, v_shape: Any, kernel_size: list[int], *args: Any, **kwargs: Any
) -> int:
    return _products(q_shape, v_shape, kernel_size, 1, 1)


@register_flop_formula(torch.ops.foveate.local_attention_backward)
def _flops_backward(
    grad_shape: Any,
    grad_lse_shape: Any,
    given_out_shape: Any,
    lse_shape: Any,
    bias_grad: bool,
    q_shape: Any,
    k_shape: Any,
    v_shape: Any,
    kernel_size: list[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    return _products(q_shape, v_shape, kernel_size, 3, 2)
