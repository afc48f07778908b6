"""Selective kernels against timm's."""

from __future__ import annotations

import torch
from timm.layers import SelectiveKernel as TimmSelectiveKernel

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.gates.selective_kernel import SelectiveKernel


def test_equals_timm() -> None:
    theirs = TimmSelectiveKernel(64, groups=32, rd_divisor=32, split_input=False)
    ours, x = SelectiveKernel(64), torch.randn(2, 64, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_kernels_stride_and_width_are_those_of_timm():
    torch.manual_seed(0)
    options = {"kernel_size": [3, 5], "stride": 2, "keep_3x3": False, "split_input": False}
    theirs = TimmSelectiveKernel(8, 16, rd_channels=32, **options).eval()
    ours = SelectiveKernel(
        8, dilations=(1, 1), kernel_sizes=(3, 5), stride=2, dim_out=16, groups=1
    ).eval()
    foveate.load_published(ours, theirs.state_dict())
    x = torch.randn(2, 8, 7, 10)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.multiply_adds(7, 10) * 2 == count_flops(ours, x[:1])
