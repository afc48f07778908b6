"""Slide attention in plain PyTorch, the fast portable form: on any device, differentiable.

Equals ``reference.py``. The products are ordered so that no shift channel's convolved map is ever
built: a tap's share of every logit is one dense product, ``(q * k shifted) @ w``, and its share of
the output ``(a @ w) * v shifted``.

Legend: B batch, H x W map, h heads, D channels of a head, n shift channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops import _dropout
from foveate.ops.slide._arguments import Arguments


def slide_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, h, Dv)`` and probabilities ``(B, H, W, h, n)`` of checked arguments."""
    key_weight, key_bias = a.key_weight.to(a.q.dtype), a.key_bias.to(a.q.dtype)
    value_weight, value_bias = a.value_weight.to(a.v.dtype), a.value_bias.to(a.v.dtype)
    q = a.q * a.scale
    logits = _precise(_by_head(q, key_bias.mT))  # (B, H, W, h, n)
    for near, weight in zip(_shifted(a.k, a.kernel_size), key_weight.unbind(1), strict=True):
        logits = logits + _precise((q * near) @ weight.mT)
    probabilities = logits.softmax(-1)
    weights = probabilities
    if a.dropout_p:
        kept = _dropout.kept(a.seed, *_numbers(weights), a.dropout_p)
        weights = weights.where(kept, 0) * (1 / (1 - a.dropout_p))
    weights = weights.to(a.v.dtype)
    out = _by_head(weights, value_bias)  # (B, H, W, h, Dv)
    for near, weight in zip(_shifted(a.v, a.kernel_size), value_weight.unbind(1), strict=True):
        out = out + (weights @ weight) * near
    return out, probabilities


def _shifted(x: Tensor, kernel: Sequence[int]) -> Iterator[Tensor]:
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
    """The number of every query ``(B, H, W, h, 1)`` and of every shift channel ``(n,)``."""
    batch, height, width, heads, channels = weights.shape
    queries = torch.arange(batch * height * width * heads, device=weights.device)
    queries = queries.view(batch, height, width, heads, 1)
    return queries, torch.arange(channels, device=weights.device)
