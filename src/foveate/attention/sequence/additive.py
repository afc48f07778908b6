"""Additive alignment: a small network judges each pair of query and memory position.

    a = softmax_s(v . tanh(W_q q_t + W_h h_s + b)),   context = sum_s a_s h_s

Shapes: query q (B, T, C), memory h (B, S, M), W_q (A, C), W_h (A, M), v (A), weights a (B, T, S),
context (B, T, M).
Cost: ``T C A + S M A + T S A + T S M`` multiply-adds.

Paper: Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate",
ICLR 2015, arXiv:1409.0473. The normalised form, ``g v / |v|`` for v with a learned g, is that of
Salimans and Kingma, arXiv:1602.07868.
Published code: tensorflow/addons (``BahdanauAttention``: no b; with ``normalize`` g starts at
``A^-0.5`` and b is there); OpenNMT/OpenNMT-py (``GlobalAttention``, "mlp": with b), whose weights
load without its output layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import positive
from foveate.attention._vectors import Vectors
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.registry import register


@register(
    "additive",
    family="sequence",
    title="Additive alignment of queries with a memory (Bahdanau)",
    paper="Bahdanau et al., Neural Machine Translation by Jointly Learning to Align and "
    "Translate, ICLR 2015, arXiv:1409.0473",
    source="tensorflow/addons@d208d752e98c310280938efa939117bf635a60a8",
    license="Apache-2.0",
    tags=("weights", "unordered", "published"),
    parity="tensorflow/addons' Bahdanau score and OpenNMT-py's mlp, exactly",
)
class AdditiveAligner(ScoreAligner):
    """Scores come from a network with one hidden layer.

    Args:
        dim: channels C of the queries.
        memory_dim: channels M of the memory; ``dim`` by default.
        hidden: units A of the hidden layer; ``dim`` by default.
        bias: whether the hidden layer has a bias.
        normalize: give v a learned length of its own.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int | None = None,
        *,
        hidden: int | None = None,
        bias: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__(dim, memory_dim)
        self.hidden = dim if hidden is None else positive(hidden, "hidden")
        self.query = nn.Linear(dim, self.hidden, bias=bias)
        self.memory = nn.Linear(self.memory_dim, self.hidden, bias=False)
        self.v = Vectors(self.hidden, 1)
        self.g = nn.Parameter(torch.tensor(self.hidden**-0.5)) if normalize else None

    def score(self, query: Tensor, memory: Tensor) -> Tensor:
        pairs = self.query(query)[:, :, None] + self.memory(memory)[:, None]  # (B, T, S, A)
        v = self.v.weight  # (1, A)
        if self.g is not None:
            v = self.g * F.normalize(v, dim=1)
        return F.linear(pairs.tanh(), v).squeeze(-1)  # (B, T, S)

    def score_multiply_adds(self, queries: int, positions: int) -> int:
        inputs = queries * self.dim + positions * self.memory_dim
        return (inputs + queries * positions) * self.hidden

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of OpenNMT-py's ``mlp`` scores."""
        names = {"linear_query": "query", "linear_context": "memory"}
        renamed = {}
        for key, value in state.items():
            layer, dot, leaf = key.partition(".")
            renamed[names.get(layer, layer) + dot + leaf] = value
        return renamed
