"""The mixers inside windows, stripes and spread groups: which cells attend to which, and cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.analysis.flops import count_flops
from foveate.attention.window.cross_shaped import CrossShapedAttention
from foveate.attention.window.locally_grouped import LocallyGroupedAttention
from foveate.attention.window.shuffle import ShuffleAttention

SIZES = [(6, 8), (7, 5), (9, 4), (2, 3), (1, 1)]


MIXERS = {
    "cross_shaped": lambda: CrossShapedAttention(16, 2, 3),
    "locally_grouped": lambda: LocallyGroupedAttention(16, 2, 3),
    "shuffle": lambda: ShuffleAttention(16, 2, 3),
}


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = MIXERS[name]().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def _cells(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every position, as columns to compare with their transposes."""
    place = torch.arange(height * width)
    return (place // width)[:, None], (place % width)[:, None]


def _same(a: torch.Tensor) -> torch.Tensor:
    return a == a.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MIXERS)
def test_weights_reproduce_the_output_and_the_cost_is_counted(name, size):
    m, x = _build(name), torch.randn(2, 16, *size)
    weights = m.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    torch.testing.assert_close(m.apply_weights(x, weights), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MIXERS)
def test_padding_adds_nothing_to_a_part_that_overhangs_the_map(name, size):
    """Who sees whom follows from the parts alone, at any size."""
    row, column = _cells(*size)
    spread = [-(-length // min(3, length)) for length in size]  # groups along each axis
    expected = {
        "cross_shaped": [_same(column // 3), _same(row // 3)],
        "locally_grouped": [_same(row // 3) & _same(column // 3)] * 2,
        "shuffle": [_same(row % spread[0]) & _same(column % spread[1])] * 2,
    }[name]
    seen = _build(name).weights(torch.randn(1, 16, *size))[0] > 0
    assert torch.equal(seen, torch.stack(expected))
