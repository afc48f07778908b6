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
from foveate.contracts import Gate
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
        self.reduce = nn.Conv2d(dim, self.hidden, 1)
        self.bn = nn.BatchNorm2d(self.hidden)
        self.rows = nn.Conv2d(self.hidden, dim, 1)
        self.columns = nn.Conv2d(self.hidden, dim, 1)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        height, width = x.shape[2:]
        rows = x.mean(3, keepdim=True)  # (B, C, H, 1)
        columns = x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        f = F.hardswish(self.bn(self.reduce(torch.cat([rows, columns], 2))))  # (B, C', H + W, 1)
        f_h, f_w = f.split([height, width], 2)
        return self.rows(f_h).sigmoid() * self.columns(f_w).sigmoid().transpose(2, 3)

    def multiply_adds(self, height: int, width: int) -> int:
        return 2 * (height + width) * self.dim * self.hidden

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read houqb/CoordAttention's names."""
        names = {"conv1": "reduce", "bn1": "bn", "conv_h": "rows", "conv_w": "columns"}
        return rename(state, names)
