"""Convolutional projections: what is theirs alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.attention.full.convolutional_projection import ConvolutionalProjectionAttention


def test_fusing_keeps_the_numbers() -> None:
    module = ConvolutionalProjectionAttention(16, 4).eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 16, 7, 5)
    before = module(x)
    module.fuse()
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        ConvolutionalProjectionAttention(16, 4, kernel_size=4)
