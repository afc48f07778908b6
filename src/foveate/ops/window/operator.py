"""Attention inside parts as an operator of PyTorch: what compilers, counters and autograd see.

``foveate::window_attention`` and its backward are opaque to them. Nothing is kept for the backward
but the arguments: it makes the weights of a part again while it holds the part.

FLOPs are counted by meaning: every query of the padded map meets every key of its part in two
products, in five going backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import register_flop_formula

from foveate.ops._backends import (
    as_told,
    choose,
    gradients_by_place,
    has_tangent,
    obstacles,
    recording,
    told,
)
from foveate.ops.window import native, portable
from foveate.ops.window.parts import Parts

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, SymInt[] part, SymInt[] shift, bool spread, Tensor? bias, "
    "float scale, float dropout_p, Tensor? seed"
)
_library = torch.library.Library("foveate", "FRAGMENT")
_library.define(f"window_attention({_ARGUMENTS}) -> Tensor")
_library.define(
    f"window_attention_backward(Tensor grad_out, bool bias_grad, {_ARGUMENTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
window_attention = torch.ops.foveate.window_attention.default
_backward = torch.ops.foveate.window_attention_backward.default


def why_not(q: Tensor, k: Tensor, v: Tensor, part: list[int], *rest: Any) -> dict[str, str]:
    """Why each backend cannot take these arguments; empty where it can."""
    against = obstacles(q, k, v, rest[2])
    against["triton"] = "it has no kernel for attention inside parts"
    cells = part[0] * part[1]
    if not against["native"] and cells > native.MOST_CELLS:
        against["native"] = (
            f"it takes parts of up to {native.MOST_CELLS} cells, and got {part[0]}x{part[1]}"
        )
    return against


def _backend(*arguments: Any) -> str:
    return choose("window_attention", why_not(*arguments))


@torch.library.impl(_library, "window_attention", "CompositeExplicitAutograd")
def _run(*arguments: Any) -> Tensor:
    body = native if _backend(*arguments) == "native" else portable
    return body.window_attention(*arguments).contiguous()


@torch.library.register_fake("foveate::window_attention", lib=_library)
def _fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return v.new_empty(v.shape)


@torch.library.impl(_library, "window_attention_backward", "CompositeExplicitAutograd")
def _run_backward(
    grad_out: Tensor, bias_grad: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if _backend(*arguments) == "native":
        return native.window_attention_backward(grad_out, bias_grad, *arguments)
    q, k, v, part, shift, spread, bias, *rest = arguments
    with recording():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        bias = bias.detach().requires_grad_() if bias_grad else bias
        wanted = [*leaves, bias] if bias_grad else leaves
        grads = _differentiate((*leaves, part, shift, spread, bias, *rest), wanted, grad_out)
    d_bias = grads[3] if bias_grad else q.new_empty(0)
    return *(grad.contiguous() for grad in grads[:3]), d_bias.contiguous()


@torch.library.register_fake("foveate::window_attention_backward", lib=_library)
def _fake_backward(
    grad_out: Tensor, bias_grad: bool, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias = rest[3]
    d_bias = bias.new_empty(bias.shape) if bias_grad else q.new_empty(0)
    return *(x.new_empty(x.shape) for x in (q, k, v)), d_bias


def _differentiate(
    arguments: Sequence[Any], wanted: list[Tensor], grad_out: Tensor, *, again: bool = False
) -> tuple[Tensor, ...]:
    """Gradients through the portable form, differentiable ``again`` if asked."""
    out = (any_derivative if again else portable.window_attention)(*arguments)
    return torch.autograd.grad(out, wanted, grad_out, create_graph=again, materialize_grads=True)


def any_derivative(*arguments: Any) -> Tensor:
    """The portable form through the one of SDPA's forms that has every derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return portable.window_attention(*arguments)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        q, k, v, part, shift, spread, bias, scale, dropout_p, seed = arguments
        with torch._C._AutoDispatchBelowAutograd():
            out = window_attention(*arguments)
        ctx.save_for_backward(q, k, v, bias, seed)
        ctx.settings = part, shift, spread, scale, dropout_p
        ctx.told = told()
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        q, k, v, bias, seed = ctx.saved_tensors
        part, shift, spread, scale, dropout_p = ctx.settings
        arguments = (q, k, v, part, shift, spread, bias, scale, dropout_p, seed)
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            places = [i for i in (0, 1, 2, 6) if ctx.needs_input_grad[i]]
            differentiate = partial(_differentiate, grad_out=grad_out, again=True)
            found = gradients_by_place(arguments, places, differentiate)
            return tuple(found.get(i) for i in range(len(arguments)))
        bias_grad = ctx.needs_input_grad[6]
        with as_told(ctx.told):
            dq, dk, dv, d_bias = _backward(grad_out, bias_grad, *arguments)
        return dq, dk, dv, None, None, None, d_bias if bias_grad else None, None, None, None


@torch.library.impl(_library, "window_attention", "Autograd")
def _with_autograd(*arguments: Any) -> Tensor:
    tensors = (arguments[0], arguments[1], arguments[2], arguments[6])
    if has_tangent(*tensors):
        return any_derivative(*arguments)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _WindowAttention.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return window_attention(*arguments)


def _products(q_shape: Any, v_shape: Any, part: Any, of_q: int, of_v: int) -> int:
    """FLOPs of so many products with channels of q and of v."""
    batch, height, width, heads, dim = q_shape
    pairs = batch * heads * Parts((height, width), (part[0], part[1])).pairs
    return 2 * pairs * (of_q * dim + of_v * v_shape[-1])


@register_flop_formula(torch.ops.foveate.window_attention)
def _flops(q_shape: Any, k_shape: Any, v_shape: Any, part: Any, *args: Any, **kwargs: Any) -> int:
    return _products(q_shape, v_shape, part, 1, 1)


@register_flop_formula(torch.ops.foveate.window_attention_backward)
def _flops_backward(
    grad_shape: Any,
    bias_grad: bool,
    q_shape: Any,
    k_shape: Any,
    v_shape: Any,
    part: Any,
    *args: Any,
    **kwargs: Any,
) -> int:
    return _products(q_shape, v_shape, part, 3, 2)
