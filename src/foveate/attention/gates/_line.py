"""A 1x1 convolution of a line of positions, whose channels lie side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LineConv(nn.Conv2d):
    """A 1x1 convolution that is computed as the linear layer that it is.

    PyTorch's convolutions lay channels that lie side by side apart first, which takes longer than
    the product where positions are few.

    Args:
        dim: channels in.
        out: channels out.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out, 1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.compiler.is_exporting():
            return super()._conv_forward(input, weight, bias)
        out = F.linear(input.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return out.permute(0, 3, 1, 2)
