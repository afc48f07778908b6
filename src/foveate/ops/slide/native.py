"""Slide attention by the compiled CPU kernels of ``native/slide``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, SlideArguments, View
from foveate.ops.native.tensors import STORAGE, aligned, run_settings, view
from foveate.ops.slide._arguments import probabilities_shape

_GRADS = ("dq", "dk", "dv", "d_key_weight", "d_key_bias", "d_value_weight", "d_value_bias")


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
    arguments = _arguments(
        maps, weights, probabilities, kernel_size, scale, dropout_p, seed, out=out.data_ptr()
    )
    library.kernel("slide_forward")(arguments)
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
    addresses = dict(zip(_GRADS, (grad.data_ptr() for grad in grads), strict=False))
    arguments = _arguments(
        maps, weights, probabilities, kernel_size, scale, dropout_p, seed,
        grad_out=view(gradient), **addresses,
    )  # fmt: skip
    library.kernel("slide_backward")(arguments)
    return [grad.to(x.dtype) for grad, x in zip(grads, given, strict=False)]


def _packed(*tensors: Tensor) -> list[Tensor]:
    return [aligned(x.to(torch.float32).contiguous()) for x in tensors]


def _arguments(
    maps: list[Tensor],
    weights: list[Tensor],
    probabilities: Tensor,
    kernel_size: list[int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: View = ABSENT,
    **others: Any,
) -> SlideArguments:
    """All arguments; others are fields by name."""
    q, k, v = maps
    key_weight, key_bias, value_weight, value_bias = weights
    batch, height, width, heads, dim = q.shape
    return SlideArguments(
        run=run_settings(scale, dropout_p, seed),
        q=view(q),
        k=view(k),
        v=view(v),
        grad_out=grad_out,
        key_weight=key_weight.data_ptr(),
        key_bias=key_bias.data_ptr(),
        value_weight=value_weight.data_ptr(),
        value_bias=value_bias.data_ptr(),
        key_bias_stride=key_bias.stride(0) if key_bias.shape[0] > 1 else 0,
        value_bias_stride=value_bias.stride(0) if value_bias.shape[0] > 1 else 0,
        batch=batch,
        height=height,
        width=width,
        heads=heads,
        dim=dim,
        value_dim=v.shape[4],
        kernel_h=kernel_size[0],
        kernel_w=kernel_size[1],
        storage=STORAGE[q.dtype],
        probabilities=probabilities.data_ptr() if probabilities.numel() else 0,
        **others,
    )
