"""Residual attention: whose weights they are is told by their names."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.attention.gates.residual_attention import ResidualAttention

NAMES = {"first": "first_residual_blocks", "trunk": "trunk_branches", "bottom": "middle_2r_blocks"}


def _of_the_port(module: ResidualAttention) -> dict[str, torch.Tensor]:
    """The module's state by the port's names where these tell it."""
    renamed = {}
    for key, value in module.state_dict().items():
        first, dot, rest = key.partition(".")
        renamed[NAMES.get(first, first) + dot + rest] = value
    return renamed


def test_weights_of_the_port_are_refused_by_the_authors_variant() -> None:
    state = _of_the_port(ResidualAttention(8, 1, variant="port"))
    with pytest.raises(ValueError, match="variant='port'"):
        foveate.load_published(ResidualAttention(8, 1), state)


def test_weights_of_the_port_load_into_its_variant() -> None:
    source = ResidualAttention(8, 1, variant="port").eval()
    loaded = foveate.load_published(ResidualAttention(8, 1, variant="port"), _of_the_port(source))
    x = torch.randn(1, 8, 6, 5)
    torch.testing.assert_close(loaded.eval()(x), source(x))
