"""Slide attention by the compiled CPU kernels of ``native/slide``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import SlideArguments, as_words, places
from foveate.ops.native.tensors import (
    STORAGE,
    Plan,
    aligned,
    plan,
    planned_view,
    run_settings,
    set_seed,
)
from foveate.ops.slide._arguments import probabilities_shape

_WEIGHTS = places(SlideArguments, "key_weight", "key_bias", "value_weight", "value_bias")
_GRADS = places(
    SlideArguments, "dq", "dk", "dv", "d_key_weight", "d_key_bias", "d_value_weight", "d_value_bias"
)
_Q, _K, _V, _GRAD_OUT, _PROBABILITIES, _OUT, _SEED = places(
    SlideArguments, "q", "k", "v", "grad_out", "probabilities", "out", "run.seed_low"
)


def slide_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: list[int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Output ``(B, H, W, h, Dv)`` and, if ``keep``, probabilities ``(B, h, n, H, W)``."""
    maps = [aligned(x) for x in (q, k, v)]
    weights = _packed(key_weight, key_bias, value_weight, value_bias)
    out = v.new_empty(v.shape)
    probabilities = None
    if keep:
        probabilities = v.new_empty(probabilities_shape(q, kernel_size), dtype=torch.float32)
    words = _words(maps, weights, probabilities, kernel_size, scale, dropout_p, seed)
    words[_OUT] = out.data_ptr()
    library.kernel("slide_forward")(words)
    return out, probabilities


def slide_attention_backward(
    grad_out: Tensor,
    probabilities: Tensor,
    weight_grads: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: list[int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """Gradients of q, k, v and, if ``weight_grads``, of the weights and biases."""
    given = (q, k, v, key_weight, key_bias, value_weight, value_bias)
    maps, gradient = [aligned(x) for x in (q, k, v)], aligned(grad_out)
    probabilities = probabilities.contiguous()
    weights = _packed(key_weight, key_bias, value_weight, value_bias)
    grads = [torch.empty(x.shape, dtype=x.dtype) for x in maps]
    if weight_grads:
        grads += [torch.empty(x.shape, dtype=torch.float32) for x in weights]
    words = _words(maps, weights, probabilities, kernel_size, scale, dropout_p, seed, gradient)
    words[_GRAD_OUT] = gradient.data_ptr()
    for at, grad in zip(_GRADS, grads, strict=False):
        words[at] = grad.data_ptr()
    library.kernel("slide_backward")(words)
    return [grad.to(x.dtype) for grad, x in zip(grads, given, strict=False)]


def _packed(*tensors: Tensor) -> list[Tensor]:
    return [
        aligned(x if x.is_contiguous() else x.contiguous())
        for x in (x if x.dtype is torch.float32 else x.float() for x in tensors)
    ]


def _words(
    maps: list[Tensor],
    weights: list[Tensor],
    probabilities: Tensor | None,
    kernel_size: Sequence[int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: Tensor | None = None,
) -> array[int]:
    """All arguments but addresses of results; the tensors must live until the kernel has run."""
    q, k, v = maps
    _, key_bias, _, value_bias = weights
    words = _planned(
        plan(q), plan(k), plan(v), plan(grad_out), key_bias.shape, value_bias.shape,
        tuple(kernel_size), scale, dropout_p, torch.get_num_threads(),
    )[:]  # fmt: skip
    words[_Q], words[_K], words[_V] = q.data_ptr(), k.data_ptr(), v.data_ptr()
    for at, weight in zip(_WEIGHTS, weights, strict=True):
        words[at] = weight.data_ptr()
    if probabilities is not None and probabilities.numel():
        words[_PROBABILITIES] = probabilities.data_ptr()
    if dropout_p:
        set_seed(words, _SEED, seed)
    return words


@lru_cache(maxsize=256)
def _planned(
    q: Plan,
    k: Plan,
    v: Plan,
    grad_out: Plan | None,
    key_bias: torch.Size,
    value_bias: torch.Size,
    kernel_size: tuple[int, ...],
    scale: float,
    dropout_p: float,
    threads: int,
) -> array[int]:
    """Everything that a kernel is told but addresses and seed: mostly as in a call before."""
    batch, height, width, heads, dim = q[0]
    return as_words(
        SlideArguments(
            run=run_settings(scale, dropout_p, threads),
            q=planned_view(q),
            k=planned_view(k),
            v=planned_view(v),
            grad_out=planned_view(grad_out),
            key_weight=0,
            key_bias=0,
            value_weight=0,
            value_bias=0,
            key_bias_stride=key_bias[1:].numel() if key_bias[0] > 1 else 0,
            value_bias_stride=value_bias[1:].numel() if value_bias[0] > 1 else 0,
            batch=batch,
            height=height,
            width=width,
            heads=heads,
            dim=dim,
            value_dim=v[0][4],
            kernel_h=kernel_size[0],
            kernel_w=kernel_size[1],
            storage=STORAGE[q[2]],
        )
    )
