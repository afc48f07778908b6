"""Slide attention in plain PyTorch: what it means, on any device, differentiable, exportable.

The products are ordered so that no slot's shifted map is ever built: a tap's part of every logit
is one dense product, ``(q * k shifted) @ w``, and its part of the output ``(a @ w) * v shifted``.

Legend: B batch, H x W map, h heads, D channels of a head, n slots.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops import _dropout


def slide_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: tuple[int, int],
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and probabilities ``(B, H, W, h, n)`` of checked arguments."""
    key_weight, key_bias = key_weight.to(q.dtype), key_bias.to(q.dtype)
    value_weight, value_bias = value_weight.to(v.dtype), value_bias.to(v.dtype)
    q = q * scale
    logits = _precise(_by_head(q, key_bias.mT))  # (B, H, W, h, n)
    for near, weight in zip(_shifted(k, kernel_size), key_weight.unbind(1), strict=True):
        logits = logits + _precise((q * near) @ weight.mT)
    probabilities = logits.softmax(-1)
    weights = probabilities
    if dropout_p:
        kept = _dropout.kept(seed, *_numbers(weights), dropout_p)
        weights = weights.where(kept, 0) * (1 / (1 - dropout_p))
    weights = weights.to(v.dtype)
    out = _by_head(weights, value_bias)  # (B, H, W, h, Dv)
    for near, weight in zip(_shifted(v, kernel_size), value_weight.unbind(1), strict=True):
        out = out + (weights @ weight) * near
    return out, probabilities


def _shifted(x: Tensor, kernel: tuple[int, int]) -> Iterator[Tensor]:
    """``x (B, H, W, h, D)`` at every tap's position, row by row; zero outside the map."""
    height, width = x.shape[1:3]
    top, left = kernel[0] // 2, kernel[1] // 2
    padded = F.pad(x, (0, 0, 0, 0, left, kernel[1] - 1 - left, top, kernel[0] - 1 - top))
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            yield padded[:, row : row + height, column : column + width]


def _by_head(x: Tensor, matrix: Tensor) -> Tensor:
    """``x (B, H, W, h, I)`` times each head's ``(h or 1, I, O)``."""
    if matrix.shape[0] == 1:
        return x @ matrix[0]
    return torch.einsum("byxhi,hio->byxho", x, matrix)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _numbers(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The number of every query ``(B, H, W, h, 1)`` and of every slot ``(n,)``."""
    batch, height, width, heads, slots = weights.shape
    queries = torch.arange(batch * height * width * heads, device=weights.device)
    queries = queries.view(batch, height, width, heads, 1)
    return queries, torch.arange(slots, device=weights.device)
