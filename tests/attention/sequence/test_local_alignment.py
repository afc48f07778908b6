"""Local alignment: windows at the memory's end."""

from __future__ import annotations

import torch

from foveate.attention.sequence.local_alignment import (
    LocalMonotonicAligner,
)

DIM = 8


def _inputs(aligner, batch: int = 3, queries: int = 4, positions: int = 7):
    torch.manual_seed(0)
    query = torch.randn(batch, queries, aligner.dim)
    return query, torch.randn(batch, positions, aligner.memory_dim)


def test_a_query_beyond_the_memory_sees_nothing() -> None:
    aligner = LocalMonotonicAligner(DIM, window=1)
    context, weights = aligner(*_inputs(aligner, queries=6, positions=3))
    assert weights[:, 3].count_nonzero() == 3
    assert not weights[:, 4:].any()
    assert not context[:, 4:].any()
