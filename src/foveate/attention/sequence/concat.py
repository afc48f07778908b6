"""Concatenating alignment: a small network judges query and memory position side by side.

    a = softmax_s(v . tanh(W [q_t; h_s])),   context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, M), W (A, C + M), v (A), weights a (B, T, S), context
(B, T, M). W [q; h] is W_q q + W_h h, so this is the additive alignment without bias.
Cost: ``T C A + S M A + T S A + T S M`` multiply-adds.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
EMNLP 2015, arXiv:1508.04025 (score *concat*).
"""

from __future__ import annotations

from torch import Tensor

from foveate.attention.sequence.additive import AdditiveAligner
from foveate.registry import register


@register(
    "concat",
    family="sequence",
    title="Concatenating alignment of queries with a memory (Luong concat)",
    paper="Luong et al., Effective Approaches to Attention-based Neural Machine Translation, "
    "EMNLP 2015, arXiv:1508.04025",
    tags=("weights", "unordered", "published"),
    parity="a public re-implementation, exactly",
)
class ConcatAligner(AdditiveAligner):
    """Scores come from a network with one hidden layer over query and memory position.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        hidden: units A of the hidden layer; ``dim`` by default.
    """

    def __init__(
        self, dim: int, memory_dim: int | None = None, *, hidden: int | None = None
    ) -> None:
        super().__init__(dim, memory_dim, hidden=hidden)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split a ``W.weight`` over ``[q; h]``; the parts' own names are read too."""
        joint = state.pop("W.weight", None)
        if joint is not None:
            state["query.weight"] = joint[:, : self.dim]
            state["memory.weight"] = joint[:, self.dim :]
        return state
