"""Dual attention: its parts, and the weights over positions."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.gates.dual import DualAttention

DIM = 16


def _settled(**parts: bool) -> DualAttention:
    torch.manual_seed(0)
    module = DualAttention(DIM, **parts)
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.7)
    return module


def test_both_is_the_sum_of_the_parts() -> None:
    both, x = _settled(), torch.randn(2, DIM, 4, 6)
    torch.testing.assert_close(both(x), both.position(x) + both.channel(x))


@pytest.mark.parametrize("channel", [True, False], ids=["both", "position"])
def test_weights_reproduce_the_output(channel: bool) -> None:
    module, x = _settled(channel=channel), torch.randn(2, DIM, 4, 6)
    weights = module.weights(x)
    assert weights.shape == (2, 1, 24, 24)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 24))
    torch.testing.assert_close(module.apply_weights(x, weights), module(x))


def test_channels_alone_have_no_weights_over_positions() -> None:
    with pytest.raises(ValueError, match="no weights over positions"):
        DualAttention(DIM, position=False).weights(torch.randn(1, DIM, 2, 2))
