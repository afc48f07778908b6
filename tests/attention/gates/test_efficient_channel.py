"""Efficient channel attention against timm's."""

from __future__ import annotations

import pytest
import torch
from timm.layers import EcaModule

import foveate
from foveate.attention.gates.efficient_channel import EfficientChannelAttention


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (EcaModule(64), EfficientChannelAttention(64)),
        (EcaModule(512), EfficientChannelAttention(512)),
    ],
    ids=["eca-3", "eca-5"],
)
def test_equals_timm(theirs: torch.nn.Module, ours: EfficientChannelAttention) -> None:
    x = torch.randn(2, ours.dim, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
