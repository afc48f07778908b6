"""Scaling in plain PyTorch: its meaning, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foveate.ops.scale._arguments import Arguments


def scale(a: Arguments) -> Tensor:
    """``x`` times the factor."""
    if a.combination == "sign":
        return a.x * torch.where(a.x < 0, a.second, a.first)
    if a.combination == "mean":
        return a.x * (sum(a.factors[1:], a.first) / len(a.factors))
    return math.prod(a.factors, start=a.x)
