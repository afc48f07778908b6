"""Scaled dot-product alignment: similarities divided by the root of their expected size.

    a = softmax_s(q_t . h_s / sqrt(C) + mask),   context = sum_s a_s h_s

:func:`scaled_dot_product` is the general form, with separate keys and values, heads, any mask and
grouped queries (several query heads share a head of keys and values); the aligner is its use on
a memory that is both. Attention modules of this library, which need no weights back, take PyTorch's
fused function instead.

Shapes: query q (B, T, C), memory h (B, S, C), weights a (B, T, S), context (B, T, C).
Cost: ``2 T S C`` multiply-adds.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762; grouped queries
Ainslie et al., "GQA", EMNLP 2023, arXiv:2305.13245.
Published code: ``torch.nn.functional.scaled_dot_product_attention``. As there, a boolean mask is
True where attention may go, a floating one is added after the scale, and ``causal`` lets query i
see keys 0 to i also where T and S differ. A query that may attend to nothing gets zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.arguments import probability
from foveate.attention.sequence._alignment import ScoreAligner, masked_softmax
from foveate.registry import register


@register(
    "scaled_dot_product",
    family="sequence",
    title="Scaled dot-product alignment of queries with a memory (Transformer)",
    paper="Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762",
    source="pytorch/pytorch@2.15.0",
    license="BSD-3-Clause",
    tags=("weights",),
    parity="torch's scaled_dot_product_attention, with its weights",
)
class ScaledDotProductAligner(ScoreAligner):
    """Scores are dot products over the root of the channels.

    Args:
        dim: channels C of queries and memory alike.
        causal: whether query i sees memory positions 0 to i only.
        scale: factor of the products; ``dim**-0.5`` by default.
        attn_drop: dropout of the weights that make the context.
    """

    def __init__(
        self,
        dim: int,
        *,
        causal: bool = False,
        scale: float | None = None,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__(dim)
        self.causal = causal
        self.scale = dim**-0.5 if scale is None else scale
        self.attn_drop = probability(attn_drop, "attn_drop")

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.check(query, memory, memory_mask)
        mask = None if memory_mask is None else memory_mask[:, None, None]  # (B, 1, 1, S)
        one_head = query[:, None], memory[:, None], memory[:, None]
        dropout_p = self.attn_drop if self.training else 0.0
        context, weights = scaled_dot_product(
            *one_head, mask, causal=self.causal, scale=self.scale, dropout_p=dropout_p
        )
        return context.squeeze(1), weights.squeeze(1)

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        return (self.scale * query) @ memory.transpose(1, 2)  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        return queries * positions * self.dim


def scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention with its weights.

    Args:
        query: ``(B, h, T, D)``.
        key: ``(B, g, S, D)``; ``g`` divides ``h``, and query head i takes head ``i // (h / g)``.
        value: ``(B, g, S, E)``.
        mask: broadcastable to ``(B, h, T, S)``; boolean: True where attention may go; floating:
            added to the scaled products.
        causal: whether query i sees keys 0 to i only.
        scale: factor of the products; ``D**-0.5`` by default.
        dropout_p: dropout of the weights that make the output.

    Returns:
        The output ``(B, h, T, E)``, and the weights ``(B, h, T, S)`` before dropout.

    Raises:
        ValueError: if heads, channels or lengths do not fit together.
    """
    _check(query, key, value)
    queries, keys = query.shape[2], key.shape[2]
    grouped = query.unflatten(1, (key.shape[1], -1))  # (B, g, h / g, T, D)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (factor * grouped) @ key[:, :, None].mT  # (B, g, h / g, T, S)
    logits = logits.flatten(1, 2)
    allowed = None
    if mask is not None and mask.dtype is torch.bool:
        allowed = mask
    elif mask is not None:
        logits = logits + mask
    if causal:
        rows = torch.arange(queries, device=query.device)
        past = rows[:, None] >= torch.arange(keys, device=query.device)
        allowed = past if allowed is None else allowed & past
    weights = masked_softmax(logits, allowed)
    dropped = F.dropout(weights, dropout_p).unflatten(1, (key.shape[1], -1))
    return (dropped @ value[:, :, None]).flatten(1, 2), weights


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be (B, heads, length, channels), got {tuple(x.shape)}")
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(f"key and value must agree in batch, heads and length: {shapes}")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must agree in batch and channels: {shapes}")
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"heads of key and value must divide those of the query: {shapes}")
