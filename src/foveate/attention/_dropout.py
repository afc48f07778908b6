"""Dropout that a compiler repeats when it computes a forward again to save memory.

Under ``torch.compile`` with an activation memory budget PyTorch computes its own dropout again with
other random numbers, as it does that of its scaled dot-product attention: the gradient is then of
another function than the output, silently. These keep what was drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.ops._dropout import dropout


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout`, repeated exactly by compilers."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention`, repeated exactly by compilers."""
    if dropout_p and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return scaled_dot_product(q, k, v, attn_mask, scale=scale, dropout_p=dropout_p)[0]
    return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, scale=scale)
