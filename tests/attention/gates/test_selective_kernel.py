"""Selective kernels against timm's."""

from __future__ import annotations

import torch
from timm.layers import SelectiveKernel as TimmSelectiveKernel

import foveate
from foveate.attention.gates.selective_kernel import SelectiveKernel


def test_equals_timm() -> None:
    theirs = TimmSelectiveKernel(64, groups=32, rd_divisor=32, split_input=False)
    ours, x = SelectiveKernel(64), torch.randn(2, 64, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
