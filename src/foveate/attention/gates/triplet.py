"""Triplet attention: one gate for each pair of axes, from what the third axis holds.

    z(plane) = [max, mean] along the third axis
    out = x * mean over planes of sigmoid(BN(conv_k(z(plane)))),   planes (C, W), (C, H), (H, W)

Shapes: x (B, C, H, W), z (B, 2, plane), the gates (B, C, 1, W), (B, C, H, 1), (B, 1, H, W).
Cost: ``2 k^2 (C W + C H + H W)`` multiply-adds.

Paper: Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021,
arXiv:2010.03045.
Published code: landskape-ai/triplet-attention; the names of both of its copies are read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map, odd, positive
from foveate.attention.gates._common import rename
from foveate.contracts import Gate
from foveate.registry import register

PUBLISHED_NAMES = {
    "cw.conv": "width",
    "hc.conv": "height",
    "hw.conv": "spatial",
    "ChannelGateH.spatial": "width",
    "ChannelGateW.spatial": "height",
    "SpatialGate.spatial": "spatial",
}


class PlaneGate(nn.Module):
    """A gate for each cell of a plane, from the maximum and mean of the axis across it."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stack([x.amax(1), x.mean(1)], 1)  # (B, 2, plane)
        return self.bn(self.conv(z)).sigmoid()  # (B, 1, plane)


@register(
    "triplet",
    family="gates",
    title="Triplet attention: a gate for each pair of channel, height and width",
    paper="Misra et al., Rotate to Attend: Convolutional Triplet Attention Module, WACV 2021, "
    "arXiv:2010.03045",
    source="landskape-ai/triplet-attention@2cf02fb91196408ac6352f7984a0336aa4f7677a",
    license="MIT",
    tags=("batch_statistics", "published"),
    parity="landskape-ai/triplet-attention, exactly",
)
class TripletAttention(Gate):
    """The mean of three gates, each over one plane of the map.

    Args:
        dim: channels C; the parameters do not depend on it.
        kernel_size: side of the convolutions; odd.
        spatial: whether the plane (H, W) has a gate too.
    """

    def __init__(self, dim: int, *, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.kernel_size = odd(kernel_size, "kernel_size")
        self.width = PlaneGate(kernel_size)
        self.height = PlaneGate(kernel_size)
        self.spatial = PlaneGate(kernel_size) if spatial else None

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        width = self.width(x.transpose(1, 2)).transpose(1, 2)  # (B, C, 1, W)
        height = self.height(x.transpose(1, 3)).transpose(1, 3)  # (B, C, H, 1)
        if self.spatial is None:
            return width / 2 + height / 2
        return width / 3 + height / 3 + self.spatial(x) / 3  # (B, C, H, W)

    def multiply_adds(self, height: int, width: int) -> int:
        plane = height * width if self.spatial is not None else 0
        return 2 * self.kernel_size**2 * (self.dim * (height + width) + plane)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of landskape-ai/triplet-attention, of either copy."""
        return rename(state, PUBLISHED_NAMES)
