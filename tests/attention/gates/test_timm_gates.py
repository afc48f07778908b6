"""Weights of timm's gates load, and give timm's numbers."""

from __future__ import annotations

import pytest
import torch
from timm.layers import EcaModule, SEModule
from timm.layers import SelectiveKernel as TimmSelectiveKernel
from timm.layers.cbam import CbamModule

import foveate
from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.selective_kernel import SelectiveKernel
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (SEModule(40), SqueezeExcitation(40, divisor=8)),
        (SEModule(96, rd_ratio=0.25), SqueezeExcitation(96, 4, divisor=8)),
        (CbamModule(32), CBAM(32, bias=False)),
        (EcaModule(64), EfficientChannelAttention(64)),
        (EcaModule(512), EfficientChannelAttention(512)),
        (
            TimmSelectiveKernel(64, groups=32, rd_divisor=32, split_input=False),
            SelectiveKernel(64),
        ),
    ],
    ids=["se", "se-quarter", "cbam", "eca-3", "eca-5", "sk"],
)
def test_equals_timm(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    x = torch.randn(2, ours.dim, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
