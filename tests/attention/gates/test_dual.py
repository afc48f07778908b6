"""Dual attention: positions, channels, or both."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate.attention.gates.dual import DualAttention

DIM = 16
PARTS = [
    {},
    {"channel": False},
    {"position": False},
]


def _settled(**parts: bool) -> DualAttention:
    torch.manual_seed(0)
    module = DualAttention(DIM, **parts)
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.7)
    return module


@pytest.mark.parametrize("parts", PARTS, ids=["both", "position", "channel"])
def test_contract(parts: dict) -> None:
    torch._dynamo.reset()
    module = _settled(**parts)
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, DIM, 7, 10))
    assert module.multiply_adds(7, 10) * 2 == counter.get_total_flops()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for size in ((2, DIM, 5, 9), (1, DIM, 1, 1), (0, DIM, 4, 3)):
        x = torch.randn(size).contiguous(memory_format=torch.channels_last)
        y = module(x)
        assert y.shape == x.shape
        assert not len(x) or y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, module(x.contiguous()))
        torch.testing.assert_close(y, compiled(x))
    half = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_both_is_the_sum_of_the_parts() -> None:
    both, x = _settled(), torch.randn(2, DIM, 4, 6)
    torch.testing.assert_close(both(x), both.position(x) + both.channel(x))


@pytest.mark.parametrize("parts", PARTS[:2], ids=["both", "position"])
def test_weights_reproduce_the_output(parts: dict) -> None:
    module, x = _settled(**parts), torch.randn(2, DIM, 4, 6)
    weights = module.weights(x)
    assert weights.shape == (2, 1, 24, 24)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 24))
    torch.testing.assert_close(module.apply_weights(x, weights), module(x))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="position part, its channel part or both"):
        DualAttention(DIM, position=False, channel=False)
    with pytest.raises(ValueError, match="no weights over positions"):
        DualAttention(DIM, position=False).weights(torch.randn(1, DIM, 2, 2))
    with pytest.raises(ValueError, match=f"dim={DIM}"):
        DualAttention(DIM)(torch.randn(1, 3, 2, 2))
