"""Slide attention in the form that is exported: products and sums of shifted maps, no einsum.

Equals ``reference.py``. A tap's share of every logit is one dense product ``(q * k shifted) @ w``
and its share of the output ``(a @ w) * v shifted``, as in ``portable.py``. Two things differ:

* A map is shifted across once a column of taps; moved down from there it is one run of memory.
* Biases of each head are one product for all heads, with a matrix of their blocks. Batched by head
  it would be an ``Einsum`` or transposes, which cost runtimes more than products with zeros.

Legend: B batch, H x W map, h heads, D channels of a head, n shift channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops.slide._arguments import Arguments


def slide_attention(a: Arguments) -> Tensor:
    """Output ``(B, H, W, h, Dv)`` of checked arguments, without dropout."""
    key_weight, key_bias = a.key_weight.to(a.q.dtype), a.key_bias.to(a.q.dtype)
    value_weight, value_bias = a.value_weight.to(a.v.dtype), a.value_bias.to(a.v.dtype)
    q = a.q * a.scale
    logits = _precise(_by_head(q, key_bias.mT))  # (B, H, W, h, n)
    for near, weight in zip(_shifted(a.k, a.kernel_size), key_weight.unbind(1), strict=True):
        logits = logits + _precise((q * near) @ weight.mT)
    weights = logits.softmax(-1).to(a.v.dtype)
    out = _by_head(weights, value_bias)  # (B, H, W, h, Dv)
    for near, weight in zip(_shifted(a.v, a.kernel_size), value_weight.unbind(1), strict=True):
        out = out + (weights @ weight) * near
    return out


def _shifted(x: Tensor, kernel: Sequence[int]) -> Iterator[Tensor]:
    """``x (B, H, W, h, D)`` at every tap's position, row by row; zero outside the map."""
    height, width = x.shape[1:3]
    top, left = kernel[0] // 2, kernel[1] // 2
    padded = F.pad(x, (0, 0, 0, 0, left, kernel[1] - 1 - left, top, kernel[0] - 1 - top))
    columns = [padded[:, :, column : column + width] for column in range(kernel[1])]
    for row in range(kernel[0]):
        for column in columns:
            yield column[:, row : row + height]


def _by_head(x: Tensor, matrix: Tensor) -> Tensor:
    """``x (B, H, W, h, I)`` times each head's ``(h or 1, I, O)``."""
    heads, inputs, outputs = matrix.shape
    if heads == 1:
        return x @ matrix[0]
    own = torch.eye(heads, dtype=x.dtype, device=x.device)
    blocks = (matrix[:, :, None] * own[:, None, :, None]).reshape(heads * inputs, heads * outputs)
    x = x.clone(memory_format=torch.contiguous_format).flatten(-2)
    return (x @ blocks).unflatten(-1, (heads, outputs))


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()
