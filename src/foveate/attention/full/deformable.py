"""Deformable attention: all positions ask the same few points, which move to where matter is.

    p = p_ref + offset(q),   k, v = W_k x(p), W_v x(p)   (x read by bilinear interpolation)
    out = softmax(q k^T / sqrt(D) + bias(grid - p)) v,   then a projection

One set of points for each of ``groups`` groups of channels, on a grid ``stride`` times coarser
than the map; a small network of two convolutions reads the offsets from the queries.

Shapes: x (B, C, H, W), heads h of D = C / h channels, groups g, points P = ceil(H / s) ceil(W / s)
for stride s, offset kernel k. Coordinates are (y, x) in [-1, 1] over the map.
Cost: ``2 (H W + P) C^2 + 2 H W P C + P C (k^2 + 2)`` multiply-adds, and those of the position term.

Paper: Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022, arXiv:2201.00520;
Xia et al., "DAT++", arXiv:2309.01430.
Published code: LeapLabTHU/DAT@32173fc ``DAttentionBaseline``. As there, reference points are
``(i + 1/2) / (n - 1)`` of the way (the last lies outside) while queries are ``i / (n - 1)``;
offsets are bounded, the sum isn't. Its position tables fit one map size: here the table is
interpolated, as it is between points, and its table per query and point (``fixed_pe``) is left out.
Grids of a single row or column, a division by zero there, have their point in the middle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, head_dim, one_of, pair, positive, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.contracts import Mixer
from foveate.layout import (
    in_format,
    map_to_tokens,
    memory_format,
    merge_heads,
    pad_to_multiple,
    split_heads,
    tokens_to_map,
)
from foveate.ops._torch import in_transform
from foveate.registry import register

POSITIONS = ("table", "log", "convolution", "none")


@register(
    "deformable",
    family="full",
    title="Deformable attention: keys and values at points moved by the queries (DAT)",
    paper="Xia et al., Vision Transformer with Deformable Attention, CVPR 2022, arXiv:2201.00520",
    source="LeapLabTHU/DAT@32173fcf10d71abe73267f4e99829cd8624b7ab6",
    license="Apache-2.0",
    tags=("heads", "published"),
    parity="Any map size; the option fixed_pe, a table per query and point, is left out.",
)
class DeformableAttention(Mixer):
    """Attention of every position to shared, deformed sampling points.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        groups: groups of heads, each with its own points; must divide ``num_heads``.
        stride: distance of the reference points.
        kernel_size: kernel of the convolution that reads the offsets; odd, or equal to ``stride``.
        offset_range: largest offset in reference cells; negative: any offset, kept on the map.
        offsets: False leaves the points undeformed (the mean of each cell) and, as published, the
            position term out.
        position: "table" (a bias per displacement, interpolated), "log" (a small network on
            logarithmic displacements), "convolution" (depthwise, of the queries, added to the
            output) or "none".
        table_size: height and width of the map that the table is laid out for.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        groups: int = 1,
        stride: int = 2,
        kernel_size: int = 3,
        *,
        offset_range: float = 2.0,
        offsets: bool = True,
        position: str = "table",
        table_size: int | tuple[int, int] = 14,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.groups = positive(groups, "groups")
        if num_heads % groups:
            raise ValueError(f"groups={groups} must divide num_heads={num_heads}")
        self.stride = positive(stride, "stride")
        self.kernel_size = positive(kernel_size, "kernel_size")
        if kernel_size % 2 == 0 and kernel_size != stride:
            raise ValueError(f"kernel_size must be odd or equal to stride={stride}: {kernel_size}")
        self.offset_range = offset_range
        self.offsets = offsets
        self.position = one_of(position, POSITIONS, "position") if offsets else "none"
        self.attn_drop = probability(attn_drop, "attn_drop")
        if offsets:
            self.conv_offset = _OffsetNetwork(dim // groups, kernel_size, stride)
        self.proj_q = nn.Conv2d(dim, dim, 1)
        self.proj_k = nn.Conv2d(dim, dim, 1)
        self.proj_v = nn.Conv2d(dim, dim, 1)
        self.proj_out = nn.Conv2d(dim, dim, 1)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        self._build_position(pair(table_size, "table_size"))

    def _build_position(self, table_size: tuple[int, int]) -> None:
        if self.position == "table":
            rows, columns = (2 * n - 1 for n in table_size)
            self.rpe_table = nn.Parameter(torch.empty(self.num_heads, rows, columns))
            nn.init.trunc_normal_(self.rpe_table, std=0.01)
        elif self.position == "log":
            heads = self.num_heads // self.groups
            self.rpe_table = nn.Sequential(
                nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, heads, bias=False)
            )
        elif self.position == "convolution":
            self.rpe_table = nn.Conv2d(self.dim, self.dim, 3, padding=1, groups=self.dim)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q = self.proj_q(x)
        if self.offsets:
            points = self._points(q)  # (B, g, Hk, Wk, 2)
            sampled, bias = self._sample(x, points), self._bias(points, x)
        else:
            sampled, bias = F.avg_pool2d(x, self.stride, ceil_mode=True), None
        k, v = self._heads(self.proj_k(sampled)), self._heads(self.proj_v(sampled))  # (B, h, P, D)
        dropout_p = self.attn_drop if self.training else 0.0
        if bias is not None and (bias.requires_grad or in_transform()):
            # PyTorch's fused attention has no gradient of a bias, and transforms hide who asks.
            y, _ = scaled_dot_product(self._heads(q), k, v, bias, dropout_p=dropout_p)
        else:
            bias = None if bias is None else bias.to(k.dtype)
            y = scaled_dot_product_attention(self._heads(q), k, v, bias, dropout_p)
        y = tokens_to_map(merge_heads(y.transpose(1, 2)), *x.shape[2:], like=x)
        if self.position == "convolution":
            y = y + self.rpe_table(q)
        y = self.proj_drop(self.proj_out(y))
        return in_format(y, memory_format(x))

    def points(self, x: Tensor) -> Tensor:
        """Where keys and values are read: ``(B, g, Hk, Wk, 2)`` of (y, x), in [-1, 1] on the map.

        Raises:
            ValueError: if the module was built with ``offsets=False``.
        """
        check_map(x, self.dim)
        if not self.offsets:
            raise ValueError("built with offsets=False: its keys are means of cells, not points")
        return self._points(self.proj_q(x))

    def multiply_adds(self, height: int, width: int) -> int:
        queries = height * width
        points = -(-height // self.stride) * -(-width // self.stride)
        total = 2 * (queries + points) * self.dim**2 + 2 * queries * points * self.dim
        if self.offsets:
            total += points * self.dim * (self.kernel_size**2 + 2)
        if self.position == "log":
            total += queries * points * 32 * (2 * self.groups + self.num_heads)
        elif self.position == "convolution":
            total += queries * self.dim * 9
        return total

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, h, H*W, D)``, channels side by side, as fused attention needs."""
        return split_heads(map_to_tokens(x).contiguous(), self.num_heads).transpose(1, 2)

    def _points(self, q: Tensor) -> Tensor:
        offset = self.conv_offset(q.reshape(-1, self.dim // self.groups, *q.shape[2:]))
        offset = offset.to(
            torch.promote_types(q.dtype, torch.float32)
        )  # half precision does not resolve pixels
        offset = offset.unflatten(0, (q.shape[0], self.groups)).movedim(2, -1)
        height, width = offset.shape[2], offset.shape[3]
        reference = _grid(height, width, 0.5, offset)  # (Hk, Wk, 2)
        if self.offset_range < 0:
            return (reference + offset).clamp(-1, 1)
        y, x = (self.offset_range * offset.tanh()).unbind(-1)
        return reference + torch.stack([y / _steps(height), x / _steps(width)], -1)

    def _sample(self, x: Tensor, points: Tensor) -> Tensor:
        """``x`` at the points of each group of channels: ``(B, C, Hk, Wk)``."""
        groups = x.reshape(-1, self.dim // self.groups, *x.shape[2:]).to(points.dtype)
        sampled = F.grid_sample(groups, points.flatten(0, 1).flip(-1), align_corners=True)
        return sampled.reshape(x.shape[0], self.dim, *points.shape[2:4]).to(x.dtype)

    def _bias(self, points: Tensor, x: Tensor) -> Tensor | None:
        """Position term of the logits: ``(B, h, H*W, P)``."""
        if self.position not in ("table", "log"):
            return None
        queries = _grid(x.shape[2], x.shape[3], 0.0, points).flatten(0, 1)  # (H*W, 2)
        shift = queries[:, None] - points.flatten(2, 3)[:, :, None]  # (B, g, H*W, P, 2)
        if self.position == "log":
            shift = (4 * shift).sign() * (1 + (4 * shift).abs()).log2() / math.log2(8)
            bias = self.rpe_table(shift.to(x.dtype)).movedim(-1, 2)  # (B, g, h / g, H*W, P)
        else:
            table = self.rpe_table.to(points.dtype).unflatten(0, (self.groups, -1))
            table = table.expand(x.shape[0], *table.shape).flatten(0, 1)
            bias = F.grid_sample(table, shift.flatten(0, 1).flip(-1) / 2, align_corners=True)
        return bias.reshape(x.shape[0], self.num_heads, *shift.shape[2:4])

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop the offset network that the published code keeps, frozen, without offsets."""
        if self.offsets:
            return state
        return {key: value for key, value in state.items() if not key.startswith("conv_offset.")}


def _steps(cells: int) -> int:
    """Cells from the first to the last; one where there is a single one."""
    return torch.sym_max(cells - 1, 1)


def _grid(height: int, width: int, start: float, like: Tensor) -> Tensor:
    """Cells ``start, start + 1, ...`` of each axis on [-1, 1]: ``(height, width, 2)`` of (y, x)."""
    rows = (torch.arange(height, dtype=like.dtype, device=like.device) + start) / _steps(height)
    columns = (torch.arange(width, dtype=like.dtype, device=like.device) + start) / _steps(width)
    return 2 * torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) - 1


class _OffsetNetwork(nn.Sequential):
    """Two offsets per cell, from the queries of one group: ``(B*g, 2, Hk, Wk)``."""

    def __init__(self, dim: int, kernel_size: int, stride: int) -> None:
        self.cell = stride if kernel_size == stride else 1
        padding = 0 if kernel_size == stride else kernel_size // 2
        super().__init__(
            nn.Conv2d(dim, dim, kernel_size, stride, padding, groups=dim),
            _ChannelNorm(dim),
            nn.GELU(),
            nn.Conv2d(dim, 2, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.cell > 1:
            x = pad_to_multiple(x.movedim(1, -1), (self.cell, self.cell)).movedim(-1, 1)
        return super().forward(x)


class _ChannelNorm(nn.Module):
    """Layer normalisation of the channels of a map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)
