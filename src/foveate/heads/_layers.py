"""What heads are built of: a convolution with norm and activation, and resizing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from foveate.attention._conv_norm import ConvNorm
from foveate.contracts import OneStep


class ConvNormAct(ConvNorm):
    """``relu(norm(conv(x)))``, drawn as mmsegmentation draws it (Kaiming, by what goes out).

    Args:
        dim: channels in.
        out: channels out.
        kernel_size: side of the window; odd, the border is padded by zeros.
    """

    def __init__(self, dim: int, out: int, kernel_size: int = 1) -> None:
        super().__init__(dim, out, kernel_size)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class LoneValueBatchNorm(OneStep, nn.BatchNorm2d):
    """Batch normalisation that a batch of one image with a map of one cell may pass in training.

    One value a channel has no variance, and PyTorch refuses it. Here it is normalised by the
    running statistics, as in evaluation, which stay as they are; this is said once.
    """

    def forward(self, x: Tensor) -> Tensor:
        values = x.shape[0] * x.shape[2] * x.shape[3]  # a channel
        if not self.training or self.running_mean is None or values != 1:
            return super().forward(x)
        warnings.warn(
            "one image of one cell has no statistics of its own: the running ones normalise it. "
            "With two images or more a batch, every batch has its own",
            stacklevel=2,
        )
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` bilinearly at ``size``, by the areas of cells and not by their corners."""
    return F.interpolate(x, size, mode="bilinear")


def single(x: Tensor) -> Tensor:
    """``x`` in single precision at least: what boxes in pixels need."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_maps(features: Sequence[Tensor], in_channels: Sequence[int]) -> None:
    """Refuse other maps than the head was built for; symbols (``torch.fx``) pass.

    Raises:
        TypeError: if several stand where one is read.
        ValueError: if their number or a number of channels is another.
    """
    if any(isinstance(x, Proxy) for x in features):
        return
    for x in features:
        if not isinstance(x, Tensor):
            given = f"{len(x)} maps" if isinstance(x, Sequence) else type(x).__name__
            raise TypeError(f"this head reads one map (B, C, h, w), the last, got {given}")
    given = [x.shape[1] for x in features]
    if any(x.dim() != 4 for x in features):
        raise ValueError(
            f"expected maps (B, C, h, w), got shapes {[tuple(x.shape) for x in features]}"
        )
    if any(x.shape[0] != features[0].shape[0] for x in features):
        raise ValueError(
            f"maps of one batch are expected, got {[x.shape[0] for x in features]} images"
        )
    if len(given) != len(in_channels):
        raise ValueError(
            f"expected {len(in_channels)} maps, the finest first, with {tuple(in_channels)} "
            f"channels, got {len(given)}"
        )
    if given != list(in_channels):
        raise ValueError(
            f"expected maps, the finest first, with {tuple(in_channels)} channels, "
            f"got {tuple(given)}"
        )


class ConvAct(nn.Module):
    """``relu(conv(x))``, 3x3, without a norm.

    Args:
        dim: channels in.
        out: channels out.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))
