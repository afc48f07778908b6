"""Local relations in plain PyTorch: on any device, differentiable, and what is exported.

Equals ``reference.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops._taps import neighbours
from foveate.ops.relation._arguments import Arguments


def local_relation(a: Arguments) -> Tensor:
    """The relation of checked arguments."""
    near = neighbours(a.k, a.kernel_size, a.dilation, a.border)  # (B, H, W, C, T)
    if a.relation == "difference":
        out = a.q[:, :, :, None] - near.mT
    else:
        out = torch.cat([a.q, near.flatten(3)], -1)
    if a.scale is None or a.shift is None:
        return out
    return (a.scale * out + a.shift).relu().to(out.dtype)
