"""Slide attention by the compiled CPU kernels: packs the arguments of ``native/slide.c``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.tensors import STORAGE, aligned, run_settings
from foveate.ops.slide._arguments import probabilities_shape

_COMMON = "9q3q15q4q2qq4q2d"  # struct common in native/slide_map.h


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
) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and, if ``keep``, probabilities ``(B, h, n, H, W)``."""
    maps = [aligned(x) for x in (q, k, v)]
    weights = _packed(key_weight, key_bias, value_weight, value_bias)
    out = torch.empty(v.shape, dtype=v.dtype)
    probabilities = torch.empty(
        probabilities_shape(q, kernel_size) if keep else 0, dtype=torch.float32
    )
    library.kernel("slide_forward", _COMMON + "q")(
        *_common(maps, weights, probabilities, kernel_size, scale, dropout_p, seed), out.data_ptr()
    )
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
    addresses = [grad.data_ptr() for grad in grads] + [0] * (7 - len(grads))
    library.kernel("slide_backward", _COMMON + "q5q7q")(
        *_common(maps, weights, probabilities, kernel_size, scale, dropout_p, seed),
        gradient.data_ptr(),
        *gradient.stride(),
        *addresses,
    )
    return [grad.to(x.dtype) for grad, x in zip(grads, given, strict=False)]


def _packed(*tensors: Tensor) -> list[Tensor]:
    return [aligned(x.to(torch.float32).contiguous()) for x in tensors]


def _common(
    maps: list[Tensor],
    weights: list[Tensor],
    probabilities: Tensor,
    kernel_size: list[int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[int | float, ...]:
    """The fields of ``struct common``."""
    q, k, v = maps
    key_bias, value_bias = weights[1], weights[3]
    return (
        *q.shape,
        v.shape[4],
        *kernel_size,
        STORAGE[q.dtype],
        *(x.data_ptr() for x in maps),
        *q.stride(),
        *k.stride(),
        *v.stride(),
        *(weight.data_ptr() for weight in weights),
        key_bias.stride(0) if key_bias.shape[0] > 1 else 0,
        value_bias.stride(0) if value_bias.shape[0] > 1 else 0,
        probabilities.data_ptr() if probabilities.numel() else 0,
        *run_settings(scale, dropout_p, seed),
    )
