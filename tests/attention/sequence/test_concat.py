"""Concat alignment: the published layout."""

from __future__ import annotations

import torch

import foveate
from foveate.attention.sequence.concat import ConcatAligner

DIM = 8


def _inputs(aligner, batch: int = 3, queries: int = 4, positions: int = 7):
    torch.manual_seed(0)
    query = torch.randn(batch, queries, aligner.dim)
    return query, torch.randn(batch, positions, aligner.memory_dim)


def test_concat_reads_a_joint_matrix() -> None:
    aligner = ConcatAligner(DIM, 6, hidden=5)
    query, memory = _inputs(aligner)
    joint, v = torch.randn(5, DIM + 6), torch.randn(1, 5)
    foveate.load_published(aligner, {"W.weight": joint, "v.weight": v})
    pairs = torch.cat(
        [query[:, :, None].expand(-1, -1, 7, -1), memory[:, None].expand(-1, 4, -1, -1)], -1
    )
    torch.testing.assert_close(aligner.score(query, memory), (pairs @ joint.T).tanh() @ v[0])
