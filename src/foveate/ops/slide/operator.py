"""Slide attention as an operator of PyTorch: what compilers, counters and autograd see.

``foveate::slide_attention`` and its backward are opaque to them; which backend computes is
decided when they run. Only the Triton kernels are shown to the compiler, which then starts them
itself. When a gradient will be asked for, the forward keeps the probabilities: one number a query
and slot.

FLOPs are counted by the operator's meaning, whatever the backend: every slot's key and value is a
depthwise convolution (``taps`` multiply-adds a channel), and meets its query and its probability
in two products: ``H * W * heads * slots * (taps + 1) * (D + Dv)`` multiply-adds an image. The
backward counts two such products for each, one where the convolutions' weights want no gradient.
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
from foveate.ops.slide import native, portable

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor key_weight, Tensor key_bias, Tensor value_weight, "
    "Tensor value_bias, int[] kernel_size, float scale, float dropout_p, Tensor? seed"
)
_TENSORS = 7  # q, k, v, weights and biases come first

_library = torch.library.Library("foveate", "FRAGMENT")
_library.define(f"slide_attention({_ARGUMENTS}, bool keep) -> (Tensor, Tensor)")
_library.define(
    "slide_attention_backward(Tensor grad_out, Tensor probabilities, bool weight_grads, "
    f"{_ARGUMENTS}) -> ({', '.join(['Tensor'] * _TENSORS)})"
)
slide_attention = torch.ops.foveate.slide_attention.default
_backward = torch.ops.foveate.slide_attention_backward.default


def _backend(tensors: tuple[Tensor, ...]) -> str:
    return choose("slide_attention", obstacles(*tensors))


def _kernels() -> ModuleType:
    """The Triton kernels; loaded by their first call."""
    from foveate.ops.slide import triton

    return triton


@torch.library.impl(_library, "slide_attention", "CompositeExplicitAutograd")
def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    backend = _backend(arguments[:_TENSORS])
    if backend == "native":
        return native.slide_attention(*arguments)
    if backend == "triton":
        with launching_on(arguments[0].device):
            return _kernels().slide_attention(*arguments)
    *meaning, keep = arguments
    out, probabilities = portable.slide_attention(*meaning)
    kept = probabilities.permute(0, 3, 4, 1, 2) if keep else probabilities.new_empty(0)
    return out.contiguous(), kept.contiguous()


@torch.library.register_fake("foveate::slide_attention", lib=_library)
def _fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, kernel_size, _, _, _, keep = rest
    precise = torch.float64 if q.dtype is torch.float64 else torch.float32
    shape = native.probabilities_shape(q, kernel_size) if keep else (0,)
    return v.new_empty(v.shape), q.new_empty(shape, dtype=precise)


@torch.library.impl(_library, "slide_attention_backward", "CompositeExplicitAutograd")
def _run_backward(
    grad_out: Tensor, probabilities: Tensor, weight_grads: bool, *arguments: Any
) -> tuple[Tensor, ...]:
    backend = _backend(arguments[:_TENSORS])
    if backend == "native":
        run = native.slide_attention_backward
        return _seven(run(grad_out, probabilities, weight_grads, *arguments))
    if backend == "triton":
        run = _kernels().slide_attention_backward
        with launching_on(arguments[0].device):
            return _seven(run(grad_out, probabilities, weight_grads, *arguments))
    with recording():
        tensors = [x.detach() for x in arguments[:_TENSORS]]
        wanted = [x.requires_grad_() for x in tensors[: _TENSORS if weight_grads else 3]]
        grads = _differentiate((*tensors, *arguments[_TENSORS:]), wanted, grad_out)
    return _seven([grad.contiguous() for grad in grads])


def _seven(grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients, and empty tensors for those of the weights that are not there.

    A list could not be batched by ``vmap``.
    """
    return *grads, *(grads[0].new_empty(0) for _ in range(_TENSORS - len(grads)))


@torch.library.register_fake("foveate::slide_attention_backward", lib=_library)
def _fake_backward(
    grad_out: Tensor, probabilities: Tensor, weight_grads: bool, *arguments: Any
) -> tuple[Tensor, ...]:
    return _seven([x.new_empty(x.shape) for x in arguments[: _TENSORS if weight_grads else 3]])


@torch.library.register_torch_dispatch(
    "foveate::slide_attention", FunctionalTensorMode, lib=_library
)
def _shown(mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
    if not is_shown(_backend(args[:_TENSORS])):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode:
        return _kernels().slide_attention(*args)


@torch.library.register_torch_dispatch(
    "foveate::slide_attention_backward", FunctionalTensorMode, lib=_library
)
def _shown_backward(mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
    if not is_shown(_backend(args[3 : 3 + _TENSORS])):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode:
        return _seven(_kernels().slide_attention_backward(*args))


def _differentiate(
    arguments: Sequence[Any], wanted: list[Tensor], grad_out: Tensor, *, again: bool = False
) -> tuple[Tensor, ...]:
    """Gradients through the portable form, differentiable ``again`` if asked."""
    out, _ = portable.slide_attention(*arguments)
    return torch.autograd.grad(
        out, wanted, grad_out, create_graph=again, materialize_grads=True
    )  # fmt: skip


class _SlideAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            out, probabilities = slide_attention(*arguments)
        seed = arguments[_TENSORS + 3]
        ctx.save_for_backward(probabilities, *arguments[:_TENSORS], seed)
        ctx.settings = arguments[_TENSORS : _TENSORS + 3]
        ctx.told = told()
        ctx.mark_non_differentiable(probabilities)
        return out, probabilities

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any) -> tuple:
        probabilities, *tensors, seed = ctx.saved_tensors
        arguments = (*tensors, *ctx.settings, seed)
        places = [i for i in range(_TENSORS) if ctx.needs_input_grad[i]]
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            differentiate = partial(_differentiate, grad_out=grad_out, again=True)
            found = gradients_by_place(arguments, places, differentiate)
        else:
            weight_grads = any(i >= 3 for i in places)
            with as_told(ctx.told):
                grads = _backward(grad_out, probabilities, weight_grads, *arguments)
            found = {i: grads[i] for i in places}
        return tuple(found.get(i) for i in range(_TENSORS + 5))


@torch.library.impl(_library, "slide_attention", "Autograd")
def _with_autograd(*arguments: Any) -> tuple[Tensor, Tensor]:
    if has_tangent(*arguments[:_TENSORS]):
        out, probabilities = portable.slide_attention(*arguments[:-1])
        return out, probabilities.permute(0, 3, 4, 1, 2)
    if torch.is_grad_enabled() and any(x.requires_grad for x in arguments[:_TENSORS]):
        return _SlideAttention.apply(*arguments[:-1], True)
    with torch._C._AutoDispatchBelowAutograd():
        return slide_attention(*arguments)


def _sizes(q_shape: Any, v_shape: Any, kernel_size: list[int]) -> tuple[int, int]:
    """Query-slot-channel triples of an image batch, and taps."""
    batch, height, width, heads, dim = q_shape
    taps = kernel_size[0] * kernel_size[1]
    return batch * height * width * heads * taps * (dim + v_shape[-1]), taps


@register_flop_formula(torch.ops.foveate.slide_attention)
def _flops(q_shape: Any, k_shape: Any, v_shape: Any, *rest: Any, **kwargs: Any) -> int:
    channels, taps = _sizes(q_shape, v_shape, rest[4])
    return 2 * channels * (taps + 1)


@register_flop_formula(torch.ops.foveate.slide_attention_backward)
def _flops_backward(
    grad_shape: Any,
    probabilities_shape: Any,
    weight_grads: bool,
    q_shape: Any,
    k_shape: Any,
    v_shape: Any,
    *rest: Any,
    **kwargs: Any,
) -> int:
    channels, taps = _sizes(q_shape, v_shape, rest[4])
    return 2 * channels * ((2 if weight_grads else 1) * taps + 2)
