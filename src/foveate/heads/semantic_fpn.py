"""Semantic FPN: every level of a feature pyramid is brought to the finest one, and all are added.

    y = sum_i up^k_i(p_i),   up(p) = double(relu(norm(conv3x3(p)))),   2^k_i = stride_i / stride_0
    logits = W dropout(y) + b

The finest level passes its convolution alone. Doubling is bilinear; where a side is odd it goes too
far, and what comes out is resized to the finest level before it is added.

Shapes: maps (B, C_i, h_i, w_i), the finest first, to logits (B, num_classes, h_0, w_0).

Paper: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446.
Published code: open-mmlab/mmsegmentation v1.2.2 ``FPN`` and ``FPNHead`` (Apache-2.0), as in the
configurations of PVT, Slide, CSWin and DAT: batch normalisation where the paper has group
normalisation, and no auxiliary head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from foveate.arguments import positive
from foveate.heads._layers import ConvNormAct, check_maps, resize
from foveate.heads.fpn import FPN
from foveate.heads.pixel import PixelHead


class FPNHead(PixelHead):
    """The head alone, on maps that a feature pyramid has made alike.

    Args:
        in_channels: channels of the maps.
        num_classes: classes.
        strides: of the maps, the finest first.
        dim: channels of what is added.
        dropout: of whole channels before the classifier.
    """

    reads_pyramid: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, num_classes, dropout)
        if len(strides) != len(in_channels):
            raise ValueError(
                "strides needs one for each map, got "
                f"{tuple(strides)} for maps with {tuple(in_channels)} channels"
            )
        whole = all(isinstance(stride, int) and stride > 0 for stride in strides)
        if not whole or list(strides) != sorted(strides):
            raise ValueError(
                f"strides must be whole numbers above 0, the finest first, got {tuple(strides)}"
            )
        self.in_channels = tuple(in_channels)
        self.scale_heads = nn.ModuleList(
            _to_finest(channels, dim, int(math.log2(stride / strides[0])))
            for channels, stride in zip(in_channels, strides, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        check_maps(features, self.in_channels)
        return self.merge(features)

    def merge(self, features: Sequence[Tensor]) -> Tensor:
        """The maps at the finest one's size, added and classified."""
        size = features[0].shape[2:]
        finest, *coarser = (scale(x) for scale, x in zip(self.scale_heads, features, strict=True))
        for x in coarser:
            finest = finest + resize(x, size)
        return self.classify(finest)


def _to_finest(dim: int, out: int, doublings: int) -> nn.Sequential:
    """A convolution, or as many as it takes doublings, each followed by one."""
    if doublings <= 0:
        return nn.Sequential(ConvNormAct(dim, out, 3))
    layers: list[nn.Module] = []
    for index in range(doublings):
        convolution = ConvNormAct(out if index else dim, out, 3)
        layers += [convolution, nn.Upsample(scale_factor=2, mode="bilinear")]
    return nn.Sequential(*layers)


class SemanticFPN(FPNHead):
    """A feature pyramid, and the head on it.

    Args:
        in_channels: channels of the backbone's maps.
        num_classes: classes.
        strides: of the maps, the finest first.
        neck_dim: channels of the pyramid.
        dim: channels of what is added.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        neck_dim: int = 256,
        dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        positive(neck_dim, "neck_dim")
        alike = [neck_dim] * len(in_channels)
        super().__init__(alike, num_classes, strides=strides, dim=dim, dropout=dropout)
        self.neck = FPN(in_channels, neck_dim)
        self.in_channels = tuple(in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        check_maps(features, self.in_channels)
        pyramid = self.neck({str(level): x for level, x in enumerate(features)})
        return self.merge(list(pyramid.values()))
