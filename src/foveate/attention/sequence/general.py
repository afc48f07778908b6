"""General (bilinear) alignment: the query is mapped to the memory's space, then compared.

    a = softmax_s((W q_t) . h_s),   context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, M), W (M, C), weights a (B, T, S), context (B, T, M).
Cost: ``T C M + 2 T S M`` multiply-adds.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
EMNLP 2015, arXiv:1508.04025 (score *general*).
Published code: OpenNMT/OpenNMT-py (``GlobalAttention``, "general") and facebookresearch/fairseq
(``AttentionLayer`` of its LSTM); the weights of both load without their output layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention._softmax import wide_product
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.registry import register


@register(
    "general",
    family="sequence",
    title="Bilinear alignment of queries with a memory (Luong general)",
    paper="Luong et al., Effective Approaches to Attention-based Neural Machine Translation, "
    "EMNLP 2015, arXiv:1508.04025",
    source="OpenNMT/OpenNMT-py@97111d97551c24857076a4102eabdb468b35cff4",
    license="MIT",
    tags=("weights", "unordered", "published"),
    parity="OpenNMT-py's general and fairseq's LSTM attention, exactly",
)
class GeneralAligner(ScoreAligner):
    """Scores are dot products with a linear map of the query.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
    """

    def __init__(self, dim: int, memory_dim: int | None = None) -> None:
        super().__init__(dim, memory_dim)
        self.query = nn.Linear(dim, self.memory_dim, bias=False)

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        return wide_product(self.query(query), memory.transpose(1, 2))  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        return (queries * self.dim + queries * positions) * self.memory_dim

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of OpenNMT-py's and fairseq's projections of the query."""
        names = {"linear_in.weight": "query.weight", "input_proj.weight": "query.weight"}
        return {names.get(key, key): value for key, value in state.items()}
