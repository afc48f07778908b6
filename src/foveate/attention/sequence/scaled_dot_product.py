"""Scaled dot-product alignment: similarities divided by the root of their expected size.

    a = softmax_s(q_t . h_s / sqrt(C) + mask),   context = sum_s a_s h_s

:func:`~foveate.attention._scaled_dot_product.scaled_dot_product` is the general form, with separate
keys and values, heads, any mask and grouped queries (several query heads share a head of keys and
values); the aligner is its use on a memory that is both. Attention modules of this library, which
need no weights back, take PyTorch's fused function instead.

Shapes: query q (B, T, C), memory h (B, S, C), weights a (B, T, S), context (B, T, C).
Cost: ``2 T S C`` multiply-adds.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762; grouped queries
Ainslie et al., "GQA", EMNLP 2023, arXiv:2305.13245.
Published code: ``torch.nn.functional.scaled_dot_product_attention``. As there, a boolean mask is
True where attention may go, a floating one is added after the scale, and ``causal`` lets query i
see keys 0 to i also where T and S differ. A query that may attend to nothing gets zeros.
"""

from __future__ import annotations

from torch import Tensor

from foveate.arguments import probability
from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.attention._softmax import wide_product
from foveate.attention.sequence._alignment import ScoreAligner
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
        return wide_product(self.scale * query, memory.transpose(1, 2))  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        return queries * positions * self.dim
