"""The narrow convolution in plain PyTorch: its meaning, on any device."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate.ops.narrow_conv._arguments import Arguments


def narrow_conv(a: Arguments) -> Tensor:
    """``(B, O, H, W)``."""
    return F.conv2d(a.x, a.weight, padding=(a.weight.shape[2] // 2, a.weight.shape[3] // 2))
