"""Coordinate attention: a gate for every row and one for every column, which share a bottleneck.

    z = [mean_W(x); mean_H(x)],   f = hswish(BN(W1 z + b1)),   [f_h; f_w] = f
    out = x * sigmoid(W_h f_h + b_h) * sigmoid(W_w f_w + b_w)

Shapes: x (B, C, H, W), z (B, C, H + W, 1), f (B, C', H + W, 1), the gates (B, C, H, 1) and
(B, C, 1, W).
Cost: ``2 (H + W) C C'`` multiply-adds.

Paper: Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
arXiv:2103.02907.
Published code: houqb/CoordAttention, whose C' is ``max(8, C / 32)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, positive
from foveate.attention.gates._common import reduced_width, rename
from foveate.attention.gates._line import LineConv
from foveate.contracts import Gate
from foveate.ops import axis_pool, scale
from foveate.registry import register


@register(
    "coordinate",
    family="gates",
    title="Coordinate attention: one gate for rows, one for columns",
    paper="Hou et al., Coordinate Attention for Efficient Mobile Network Design, CVPR 2021, "
    "arXiv:2103.02907",
    source="houqb/CoordAttention@7619bea9acbe260b3793833cc78cef3f124c8112",
    license="MIT",
    tags=("batch_statistics", "published"),
    parity="houqb/CoordAttention, exactly",
)
class CoordinateAttention(Gate):
    """Gates along height and width, from means along the other axis.

    Args:
        dim: channels C.
        reduction: C / C', how much narrower the bottleneck is.
        min_width: the least C'.
    """

    def __init__(self, dim: int, reduction: int = 32, *, min_width: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.hidden = max(positive(min_width, "min_width"), reduced_width(dim, reduction))
        self.reduce = LineConv(dim, self.hidden)
        self.bn = nn.BatchNorm2d(self.hidden)
        self.rows = LineConv(self.hidden, dim)
        self.columns = LineConv(self.hidden, dim)

    def gate(self, x: Tensor) -> Tensor:
        rows, columns = self._gates(x)
        return rows * columns

    def forward(self, x: Tensor) -> Tensor:
        return scale(x, *self._gates(x))

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, 1)`` and ``(B, C, 1, W)``."""
        check_map(x, self.dim)
        z = torch.cat(axis_pool(x, ["width", "height"], largest=False), 2)  # (B, 1, H + W, C)
        f = F.hardswish(self.bn(self.reduce(z.permute(0, 3, 2, 1))))  # (B, C', H + W, 1)
        f_h, f_w = f.split(list(x.shape[2:]), 2)
        return self.rows(f_h).sigmoid(), self.columns(f_w).sigmoid().transpose(2, 3)

    def multiply_adds(self, height: int, width: int) -> int:
        return 2 * (height + width) * self.dim * self.hidden

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read houqb/CoordAttention's names."""
        names = {"conv1": "reduce", "bn1": "bn", "conv_h": "rows", "conv_w": "columns"}
        return rename(state, names)
