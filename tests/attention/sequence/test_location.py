"""Location alignment: its table of positions."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.sequence.location import LocationAligner

DIM = 8


def _inputs(aligner, batch: int = 3, queries: int = 4, positions: int = 7):
    torch.manual_seed(0)
    query = torch.randn(batch, queries, aligner.dim)
    return query, torch.randn(batch, positions, aligner.memory_dim)


def test_location_knows_so_many_positions() -> None:
    aligner = LocationAligner(DIM, max_positions=6)
    with pytest.raises(ValueError, match="6 memory positions at most, got 7"):
        aligner(*_inputs(aligner))
