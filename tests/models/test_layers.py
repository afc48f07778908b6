"""Layers that backbones share."""

from __future__ import annotations

import torch
from torch import nn

from foveate.models._layers import ResidualDepthwise


def test_a_residual_convolution_is_the_sum_with_its_input():
    torch.manual_seed(0)
    ours, plain = ResidualDepthwise(6), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    torch.testing.assert_close(ours(x), x + plain(x))
    got = torch.autograd.grad(ours(x).square().sum(), [x, *ours.parameters()])
    want = torch.autograd.grad((x + plain(x)).square().sum(), [x, *plain.parameters()])
    torch.testing.assert_close(got, want)
