"""Base of the aligners that turn scores into weights by a softmax over the memory."""

from __future__ import annotations

from torch import Tensor

from foveate.arguments import check_key_mask, check_tokens, positive
from foveate.attention._softmax import masked_softmax
from foveate.contracts import Aligner


class ScoreAligner(Aligner):
    """Base of aligners that score each memory position for each query, then apply a softmax.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
    """

    def __init__(self, dim: int, memory_dim: int | None = None) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.memory_dim = dim if memory_dim is None else positive(memory_dim, "memory_dim")

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        """``(B, T, S)``: how well each query (B, T, C) fits each memory position (B, S, M)."""
        raise NotImplementedError

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        """Multiply-adds of :meth:`score`."""
        raise NotImplementedError

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.check(query, memory, memory_mask)
        mask = None if memory_mask is None else memory_mask[:, None]  # (B, 1, S)
        weights = masked_softmax(self.score(query, memory), mask).to(memory.dtype)  # (B, T, S)
        return weights @ memory, weights

    def multiply_adds(self, queries: int, positions: int) -> int:
        context = queries * positions * self.memory_dim
        return self.score_multiply_adds(queries, positions) + context

    def check(self, query: Tensor, memory: Tensor, memory_mask: Tensor | None) -> None:
        """Check that the inputs fit together.

        Raises:
            ValueError: if a dtype or shape is wrong.
        """
        check_tokens(query, self.dim, "query")
        check_tokens(memory, self.memory_dim, "memory")
        if query.shape[0] != memory.shape[0]:
            raise ValueError(
                f"query and memory must have one batch size, got {query.shape[0]} and "
                f"{memory.shape[0]}"
            )
        check_key_mask(memory_mask, memory.shape[0], memory.shape[1], "memory_mask")
