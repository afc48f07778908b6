"""Light head: the finest map is gated by the coarser ones, one after another, and classified.

    x = local(x) * up(hard_sigmoid(global(x_i)))    for each coarser map x_i, the finest first
    logits = W relu(norm(w x))

``local`` and ``global`` are 1x1 convolutions with a norm, ``w`` is one factor a channel.

Shapes: maps (B, C_i, h_i, w_i), the finest first, to logits (B, num_classes, h_0, w_0).

Paper: Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation",
ICLR 2023, arXiv:2301.13156.
Published code: fudan-zvg/SeaFormer@9718d05 ``LightHead`` of seaformer-seg (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import positive
from foveate.attention._conv_norm import ConvNorm
from foveate.heads._layers import check_maps, resize
from foveate.heads.pixel import PixelHead
from foveate.published import rename


class Fusion(nn.Module):
    """Fine features, each gated by the coarse ones that lie over it.

    Args:
        fine: channels of the fine features.
        coarse: channels of the coarse features.
        dim: channels of the output.
    """

    def __init__(self, fine: int, coarse: int, dim: int) -> None:
        super().__init__()
        self.local_embedding = ConvNorm(fine, dim)
        self.global_act = ConvNorm(coarse, dim)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        gate = F.hardsigmoid(self.global_act(coarse))
        return self.local_embedding(x) * resize(gate, x.shape[2:])


class LightHead(PixelHead):
    """Fusions, a norm, and the classifier.

    Args:
        in_channels: channels of the maps.
        num_classes: classes.
        dims: channels after each fusion; one less than ``in_channels``.
        dropout: of whole channels before the classifier.
    """

    reads_pyramid: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        dims: Sequence[int],
        dropout: float = 0.1,
    ) -> None:
        if not dims or len(dims) != len(in_channels) - 1:
            raise ValueError(
                "dims needs one entry for each of in_channels but the first, got "
                f"{tuple(dims)} for {tuple(in_channels)}"
            )
        for dim in dims:
            positive(dim, "dims")
        super().__init__(dims[-1], num_classes, dropout)
        self.in_channels = tuple(in_channels)
        fine = (in_channels[0], *dims)
        self.fusions = nn.ModuleList(map(Fusion, fine[:-1], in_channels[1:], dims))
        self.linear_fuse = ConvNorm(dims[-1], dims[-1], groups=dims[-1])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        check_maps(features, self.in_channels)
        x, *coarser = features
        for fusion, coarse in zip(self.fusions, coarser, strict=True):
            x = fusion(x, coarse)
        return self.classify(F.relu(self.linear_fuse(x)))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published head's state, which numbers fusions from 1."""
        state = super().convert_published(state)
        return rename(state, [(r"^fuse(\d)\.", lambda found: f"fusions.{int(found[1]) - 1}.")])
