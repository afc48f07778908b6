"""FCN head: convolutions and a class for every cell; the auxiliary head of the larger ones.

    y = conv^n(x),   y = conv([x, y]) if concat_input,   logits = W dropout(y) + b

with conv = relu(norm(3x3)). As an auxiliary head it reads the third of four maps and has one
convolution, of 256 channels, without ``concat_input``.

Shapes: x (B, C, h, w) to logits (B, num_classes, h, w).

Paper: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038.
Published code: open-mmlab/mmsegmentation v1.2.2 ``FCNHead`` (Apache-2.0), without dilation.
"""

from __future__ import annotations

from torch import Tensor, cat, nn

from foveate.arguments import odd, positive
from foveate.heads._layers import ConvNormAct, check_maps
from foveate.heads.pixel import PixelHead


class FCNHead(PixelHead):
    """Convolutions, and the classifier.

    Args:
        in_channels: channels of the map.
        num_classes: classes.
        dim: channels of the convolutions.
        num_convs: how many there are; with 0 the map itself has ``dim`` channels.
        kernel_size: of the convolutions; odd.
        concat_input: put the map beside what they give, and one more convolution on both.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 512,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, num_classes, dropout)
        odd(kernel_size, "kernel_size")
        if num_convs:
            positive(num_convs, "num_convs")
        elif in_channels != dim:
            raise ValueError(
                f"with num_convs=0 dim must be in_channels, got dim={dim} for {in_channels}"
            )
        self.in_channels = in_channels
        self.convs = nn.Sequential(
            *(
                ConvNormAct(dim if index else in_channels, dim, kernel_size)
                for index in range(num_convs)
            )
        )
        both = in_channels + dim
        self.conv_cat = ConvNormAct(both, dim, kernel_size) if concat_input else None

    def forward(self, x: Tensor) -> Tensor:
        check_maps([x], [self.in_channels])
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(cat([x, y], 1))
        return self.classify(y)
