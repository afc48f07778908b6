"""Local aggregation in plain PyTorch: on any device, differentiable, and what is exported.

Equals ``reference.py``. The neighbours of all positions are brought together, and summed in one
product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops._taps import neighbours
from foveate.ops.aggregate._arguments import Arguments


def local_aggregate(a: Arguments) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, S, G)`` of checked arguments, and the weights summed with."""
    weights = a.weights
    if a.normalize:
        weights = (weights if weights.dtype is torch.float64 else weights.float()).softmax(3)
    near = neighbours(a.values.flatten(3), a.kernel_size, a.dilation, a.border)
    near = near.unflatten(3, a.values.shape[3:])  # (B, H, W, S, G, T)
    out = torch.einsum("byxsgt,byxtg->byxsg", near, weights.to(near.dtype))
    return out, weights
