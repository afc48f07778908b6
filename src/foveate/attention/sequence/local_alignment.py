"""Local alignment: a query looks at the memory around one position only.

    monotonic:   p_t = t,                            a = softmax(score) within |s - p_t| <= D
    predictive:  p_t = S sigmoid(v . tanh(W q_t)),
                 a = softmax(score within |s - round(p_t)| <= D) exp(-(s - p_t)^2 / (2 (D / 2)^2))
    context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, M), W (A, C), v (A), positions p (B, T), weights a
(B, T, S). S is the number of positions that the mask allows, which must come first. Predictive
weights are not normalised again, so their sum is less than one.
Cost: that of the score over all S positions and of the context, ``T S M``; and
``T A (C + 1)`` multiply-adds for the prediction.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
EMNLP 2015, arXiv:1508.04025 (*local-m*, *local-p*). Public re-implementations add biases to W and v
(``bias=True``), and some let window positions beyond the memory take part in the softmax as zero
vectors (``border="zero"``), where the paper cuts the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import one_of, positive
from foveate.attention._softmax import masked_softmax
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.attention.sequence.concat import ConcatAligner
from foveate.attention.sequence.dot_product import DotProductAligner
from foveate.attention.sequence.general import GeneralAligner
from foveate.contracts import Aligner
from foveate.registry import register

PAPER = (
    "Luong et al., Effective Approaches to Attention-based Neural Machine Translation, "
    "EMNLP 2015, arXiv:1508.04025"
)


class LocalAligner(Aligner):
    """Base of both: a score, cut to a window around each query's position.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        score: "dot", "general" or "concat".
        window: reach D to either side.
        hidden: units of the concat score's hidden layer; ``dim`` by default.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int | None = None,
        *,
        score: str = "general",
        window: int = 10,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        one_of(score, ("dot", "general", "concat"), "score")
        if score != "concat" and hidden is not None:
            raise ValueError(f"hidden is of the concat score, got it with score={score!r}")
        if score == "dot" and memory_dim not in (None, dim):
            raise ValueError(f"the dot score needs memory_dim={dim}, got {memory_dim}")
        self.window = positive(window, "window")
        self.scorer = _scorer(score, dim, memory_dim, hidden)
        self.dim, self.memory_dim = self.scorer.dim, self.scorer.memory_dim

    def multiply_adds(self, queries: int, positions: int) -> int:
        return self.scorer.multiply_adds(queries, positions)

    def _near(self, query: Tensor, memory: Tensor, mask: Tensor | None, centre: Tensor) -> Tensor:
        """``(B, T, S)``: what the window around ``centre`` (B, T) and the mask leave."""
        self.scorer.check(query, memory, mask)
        steps = torch.arange(memory.shape[1], device=query.device)
        near = (steps - centre[..., None]).abs() <= self.window
        return near if mask is None else near & mask[:, None]


@register(
    "local_monotonic",
    family="sequence",
    title="Local alignment around the query's own position (Luong local-m)",
    paper=PAPER,
    parity="a public re-implementation, exactly",
)
class LocalMonotonicAligner(LocalAligner):
    """Query t looks at the memory around position t; beyond its end there is nothing to see.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        score: "dot", "general" or "concat".
        window: reach D to either side.
        hidden: units of the concat score's hidden layer; ``dim`` by default.
    """

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        centre = torch.arange(query.shape[1], device=query.device)[None]  # (1, T)
        near = self._near(query, memory, memory_mask, centre)
        scores = self.scorer.score(query, memory)
        weights = masked_softmax(scores, near).to(memory.dtype)
        return weights @ memory, weights


@register(
    "local_predictive",
    family="sequence",
    title="Local alignment around a position that the query predicts (Luong local-p)",
    paper=PAPER,
    parity="two public re-implementations, exactly",
)
class LocalPredictiveAligner(LocalAligner):
    """Each query looks at the memory around the position it predicts, the nearer the more.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        score: "dot", "general" or "concat".
        window: reach D to either side.
        hidden: units of the concat score's hidden layer; ``dim`` by default.
        position_hidden: units A of the predictor's hidden layer; ``dim`` by default.
        bias: whether the predictor has biases.
        border: "mask" cuts the window at the memory's ends, "zero" sees zero vectors there.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int | None = None,
        *,
        score: str = "general",
        window: int = 10,
        hidden: int | None = None,
        position_hidden: int | None = None,
        bias: bool = False,
        border: str = "mask",
    ) -> None:
        super().__init__(dim, memory_dim, score=score, window=window, hidden=hidden)
        self.border = one_of(border, ("mask", "zero"), "border")
        units = dim if position_hidden is None else positive(position_hidden, "position_hidden")
        self.predictor = nn.Sequential(
            nn.Linear(dim, units, bias=bias), nn.Tanh(), nn.Linear(units, 1, bias=bias)
        )

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.scorer.check(query, memory, memory_mask)
        position = self.positions(query, memory, memory_mask)  # (B, T)
        near = self._near(query, memory, memory_mask, position.round())
        steps = torch.arange(memory.shape[1], device=query.device)
        distance = (steps - position[..., None]) / (self.window / 2)
        weights = self._softmax(query, memory, near) * (-0.5 * distance.square()).exp()
        weights = weights.to(query.dtype)
        return weights @ memory, weights

    def positions(self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """``(B, T)``: where each query looks, a real number from 0 to the memory's length."""
        share = self.predictor(query).squeeze(-1)
        share = share.to(torch.promote_types(share.dtype, torch.float32)).sigmoid()
        if memory_mask is None:
            return memory.shape[1] * share
        return memory_mask.sum(1, keepdim=True) * share

    def _softmax(self, query: Tensor, memory: Tensor, near: Tensor) -> Tensor:
        scores = self.scorer.score(query, memory)
        if self.border == "mask":
            return masked_softmax(scores, near)
        outside = 2 * self.window + 1 - near.sum(-1, keepdim=True)  # (B, T, 1)
        blank = self.scorer.score(query, memory.new_zeros(memory.shape[0], 1, self.memory_dim))
        together = torch.cat([scores, blank + outside.log()], 2)
        seen = torch.cat([near, outside > 0], 2)
        return masked_softmax(together, seen)[..., :-1]

    def multiply_adds(self, queries: int, positions: int) -> int:
        units = self.predictor[0].out_features
        blank = self.scorer.score_multiply_adds(queries, 1) if self.border == "zero" else 0
        return super().multiply_adds(queries, positions) + queries * units * (self.dim + 1) + blank

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the re-implementations' ``Wp`` and ``vp``."""
        names = {"Wp": "predictor.0", "vp": "predictor.2"}
        parts = {key: key.partition(".") for key in state}
        return {
            names.get(layer, layer) + dot + leaf: state[key]
            for key, (layer, dot, leaf) in parts.items()
        }


def _scorer(score: str, dim: int, memory_dim: int | None, hidden: int | None) -> ScoreAligner:
    if score == "dot":
        return DotProductAligner(dim)
    if score == "general":
        return GeneralAligner(dim, memory_dim)
    return ConcatAligner(dim, memory_dim, hidden=hidden)
