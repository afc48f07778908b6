"""Pyramid pooling: what the map holds as a whole and in parts, beside every cell.

    z = [x, up(relu(norm(w_s pool_s(x)))) for s in 1, 2, 3, 6],   y = relu(norm(conv3x3(z)))
    logits = W dropout(y) + b

``pool_s`` averages over s x s parts of the map, which overlap or repeat cells where s does not
divide a side.

Shapes: x (B, C, h, w) to logits (B, num_classes, h, w).

In training the norm after ``pool_1`` of a batch of one image has one value a channel.
Mmsegmentation stops there ("Expected more than 1 value per channel when training"); here the
running statistics stand in (:class:`foveate.heads._layers.LoneValueBatchNorm`).

Paper: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv:1612.01105.
Published code: open-mmlab/mmsegmentation v1.2.2 ``PPM`` and ``PSPHead`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn

from foveate.arguments import positive
from foveate.contracts import OneStep
from foveate.heads._layers import ConvNormAct, LoneValueBatchNorm, check_maps, resize
from foveate.heads.pixel import PixelHead
from foveate.layout import is_known

POOL_SCALES = (1, 2, 3, 6)


class PartsAverage(OneStep, nn.AdaptiveAvgPool2d):
    """The means of s x s parts of a map, of any size in exported programs as well.

    Runtimes pool into parts of sizes that they know beforehand. Where a size is a symbol the means
    are two products instead, ``R x C^T``, whose rows hold a part's share of each row or column.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if not torch.compiler.is_exporting() or (is_known(height) and is_known(width)):
            return super().forward(x)
        parts = self.output_size
        return _shares(parts, height, x) @ x @ _shares(parts, width, x).mT


def _shares(parts: int, length: int, like: Tensor) -> Tensor:
    """``(parts, length)``: rows that average over the cells of a part of a side."""
    part = torch.arange(parts, device=like.device)[:, None]
    cell = torch.arange(length, device=like.device)
    first, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = ((cell >= first) & (cell < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class PyramidPooling(nn.ModuleList):
    """The map averaged over parts, each at the map's own size again: (B, dim, h, w) a scale.

    Args:
        in_channels: channels of the map.
        dim: channels that each average becomes.
        pool_scales: parts along a side, for each average.
    """

    def __init__(
        self, in_channels: int, dim: int, pool_scales: Sequence[int] = POOL_SCALES
    ) -> None:
        super().__init__(_pooled(in_channels, dim, scale) for scale in pool_scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [resize(pool(x), x.shape[2:]) for pool in self]


def _pooled(in_channels: int, dim: int, scale: int) -> nn.Sequential:
    narrow = ConvNormAct(in_channels, dim)
    narrow.bn = LoneValueBatchNorm(dim)
    return nn.Sequential(PartsAverage(positive(scale, "pool_scales")), narrow)


class PSPHead(PixelHead):
    """Pyramid pooling, a convolution, and the classifier.

    Args:
        in_channels: channels of the map.
        num_classes: classes.
        dim: channels of the averages and of the convolution.
        pool_scales: parts along a side, for each average.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 512,
        pool_scales: Sequence[int] = POOL_SCALES,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, num_classes, dropout)
        self.pooled_channels = in_channels
        self.psp_modules = PyramidPooling(in_channels, dim, pool_scales)
        self.bottleneck = ConvNormAct(in_channels + len(pool_scales) * dim, dim, 3)

    def pool(self, x: Tensor) -> Tensor:
        """``(B, in_channels, h, w)`` to ``(B, dim, h, w)``, which knows of the whole map."""
        return self.bottleneck(cat([x, *self.psp_modules(x)], 1))

    def forward(self, x: Tensor) -> Tensor:
        check_maps([x], [self.pooled_channels])
        return self.classify(self.pool(x))
