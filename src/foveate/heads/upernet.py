"""UPerNet: pyramid pooling on the coarsest map, a feature pyramid down from it, all side by side.

    t_L = psp(x_L),   t_i = relu(norm(v_i x_i)) + up(t_{i+1})          bilinear, to the finer size
    p_i = relu(norm(conv3x3(t_i))),   p_L = t_L
    y = relu(norm(conv3x3([p_1, up(p_2), ..., up(p_L)]))),   logits = W dropout(y) + b

Shapes: maps (B, C_i, h_i, w_i), the finest first, to logits (B, num_classes, h_0, w_0).

Paper: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018,
arXiv:1807.10221.
Published code: open-mmlab/mmsegmentation v1.2.2 ``UPerHead`` (Apache-2.0); beside it an
``FCNHead`` on the third map counts 0.4 in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, cat, nn

from foveate.heads._layers import ConvNormAct, check_maps, resize
from foveate.heads.psp import POOL_SCALES, PSPHead


class UPerHead(PSPHead):
    """Pyramid pooling, a feature pyramid, a convolution over all levels, and the classifier.

    Args:
        in_channels: channels of the maps.
        num_classes: classes.
        dim: channels within.
        pool_scales: parts along a side, for each average of the coarsest map.
        dropout: of whole channels before the classifier.
    """

    reads_pyramid: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        dim: int = 512,
        pool_scales: Sequence[int] = POOL_SCALES,
        dropout: float = 0.1,
    ) -> None:
        *finer, coarsest = in_channels
        super().__init__(coarsest, num_classes, dim=dim, pool_scales=pool_scales, dropout=dropout)
        self.in_channels = tuple(in_channels)
        self.lateral_convs = nn.ModuleList(ConvNormAct(channels, dim) for channels in finer)
        self.fpn_convs = nn.ModuleList(ConvNormAct(dim, dim, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormAct(len(in_channels) * dim, dim, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        check_maps(features, self.in_channels)
        *finer, coarsest = features
        above = self.pool(coarsest)
        pyramid = [above]
        for level in reversed(range(len(finer))):
            x = self.lateral_convs[level](finer[level])
            above = x + resize(above, x.shape[2:])
            pyramid.insert(0, self.fpn_convs[level](above))
        size = pyramid[0].shape[2:]
        both = cat([pyramid[0], *(resize(x, size) for x in pyramid[1:])], 1)
        return self.classify(self.fpn_bottleneck(both))
