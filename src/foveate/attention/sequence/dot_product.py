"""Dot-product alignment: a memory position matters as much as it resembles the query.

    a = softmax_s(g q_t . h_s),   context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, C), weights a (B, T, S), context (B, T, C); scale g.
Cost: ``2 T S C`` multiply-adds.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
EMNLP 2015, arXiv:1508.04025 (score *dot*, g = 1).
Published code: OpenNMT/OpenNMT-py (``GlobalAttention``, "dot"); tensorflow/addons
(``LuongAttention``, whose ``scale=True`` learns g).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.attention._softmax import wide_product
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.registry import register


@register(
    "dot_product",
    family="sequence",
    title="Dot-product alignment of queries with a memory (Luong dot)",
    paper="Luong et al., Effective Approaches to Attention-based Neural Machine Translation, "
    "EMNLP 2015, arXiv:1508.04025",
    source="OpenNMT/OpenNMT-py@97111d97551c24857076a4102eabdb468b35cff4",
    license="MIT",
    tags=("weights", "unordered"),
    parity="OpenNMT-py's dot and tensorflow/addons' Luong score, exactly",
)
class DotProductAligner(ScoreAligner):
    """Scores are dot products, times a scale.

    Args:
        dim: channels C of queries and memory alike.
        scale: what multiplies the scores.
        learned_scale: whether training may change ``scale``.
    """

    def __init__(self, dim: int, *, scale: float = 1.0, learned_scale: bool = False) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learned_scale else float(scale)

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        return wide_product(self.scale * query, memory.transpose(1, 2))  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        return queries * positions * self.dim
