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

from torch import Tensor, nn

from foveate.arguments import check_map, odd, positive
from foveate.attention.gates._common import rename
from foveate.attention.gates._plane import PlaneConv
from foveate.contracts import Gate
from foveate.ops import axis_pool, scale
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
    """A gate for each cell of a plane, from the maximum and mean of the axis across it.

    Args:
        kernel_size: side of the convolution; odd.
        turned: whether the plane comes with its axes exchanged.
    """

    def __init__(self, kernel_size: int, *, turned: bool = False) -> None:
        super().__init__()
        self.conv = PlaneConv(kernel_size, turned=turned)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, z: Tensor) -> Tensor:
        return self.bn(self.conv(z)).sigmoid()  # (B, 2, plane) -> (B, 1, plane)


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
        self.width = PlaneGate(kernel_size, turned=True)  # its kernel is that of (C, W)
        self.height = PlaneGate(kernel_size)
        self.spatial = PlaneGate(kernel_size) if spatial else None

    def gate(self, x: Tensor) -> Tensor:
        gates = self._gates(x)
        return sum(gates[1:], gates[0]) / len(gates)  # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return scale(x, *self._gates(x), combination="mean")

    def _gates(self, x: Tensor) -> list[Tensor]:
        """``(B, C, 1, W)``, ``(B, C, H, 1)`` and, if wanted, ``(B, 1, H, W)``."""
        check_map(x, self.dim)
        axes = ["height", "width"] if self.spatial is None else ["height", "width", "channels"]
        across_height, across_width, *across_channels = axis_pool(x, axes)
        width = self.width(across_height).permute(0, 3, 1, 2)  # from (B, 1, W, C)
        height = self.height(across_width).transpose(1, 3)  # from (B, 1, H, C)
        return [width, height, *(self.spatial(z) for z in across_channels)]

    def multiply_adds(self, height: int, width: int) -> int:
        plane = height * width if self.spatial is not None else 0
        return 2 * self.kernel_size**2 * (self.dim * (height + width) + plane)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of landskape-ai/triplet-attention, of either copy."""
        return rename(state, PUBLISHED_NAMES)
