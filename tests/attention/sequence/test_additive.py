"""Additive alignment: normalized scores."""

from __future__ import annotations

import torch

from foveate.attention.sequence.additive import AdditiveAligner

DIM = 8


def _inputs(aligner, batch: int = 3, queries: int = 4, positions: int = 7):
    torch.manual_seed(0)
    query = torch.randn(batch, queries, aligner.dim)
    return query, torch.randn(batch, positions, aligner.memory_dim)


def test_normalized_scores_depend_on_the_direction_of_v_alone() -> None:
    aligner = AdditiveAligner(DIM, normalize=True)
    query, memory = _inputs(aligner)
    before = aligner.score(query, memory)
    with torch.no_grad():
        aligner.v.weight.mul_(3)
    torch.testing.assert_close(aligner.score(query, memory), before)
