"""Learned vectors that a module slices or normalises before it multiplies by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Vectors(nn.Module):
    """The ``weight`` of a linear layer without bias, ``(out, dim)``, drawn alike.

    It is no ``nn.Linear``, whose weight quantization replaces by what can only be multiplied by.

    Args:
        dim: channels of a vector.
        out: how many there are.
    """

    weight: Tensor

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors as PyTorch draws a linear layer."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
