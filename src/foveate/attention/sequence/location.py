"""Location-based alignment: the query alone says which positions matter.

    a = softmax_s(W q_t),   context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, M), W (L, C) for memories of up to L positions, cut to
its first S rows before the softmax; weights a (B, T, S), context (B, T, M).
Cost: ``T C S + T S M`` multiply-adds.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
EMNLP 2015, arXiv:1508.04025 (score *location*).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate.arguments import positive
from foveate.attention._vectors import Vectors
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.registry import register


@register(
    "location",
    family="sequence",
    title="Location-based alignment: positions chosen by the query alone (Luong location)",
    paper="Luong et al., Effective Approaches to Attention-based Neural Machine Translation, "
    "EMNLP 2015, arXiv:1508.04025",
    tags=("weights",),
    parity="a public re-implementation, exactly",
)
class LocationAligner(ScoreAligner):
    """Scores are a linear map of the query, one for each memory position.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        max_positions: the longest memory L.
    """

    def __init__(
        self, dim: int, memory_dim: int | None = None, *, max_positions: int = 256
    ) -> None:
        super().__init__(dim, memory_dim)
        self.max_positions = positive(max_positions, "max_positions")
        self.position = Vectors(dim, max_positions)

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        positions = memory.shape[1]
        if positions > self.max_positions:
            raise ValueError(
                f"location scores {self.max_positions} memory positions at most, got {positions}; "
                "build it with a larger max_positions"
            )
        return F.linear(query, self.position.weight[:positions])  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        return queries * self.dim * positions
