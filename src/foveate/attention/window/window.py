"""Window attention: cells attend inside windows that do not overlap, shifted in every other block.

    out = softmax(q k^T / sqrt(D) + b) v   inside each window of wh x ww cells,
    b = table[query - key], one number per head and offset

A shift by half a window joins what the unshifted layer kept apart. The map is rolled, so that the
number of windows stays the same; cells that only the roll brought together do not see each other.

Shapes: x (B, C, H, W), n windows of T = wh * ww cells, heads h of D = C / h channels.
Cost: ``4 H W C^2 + 2 H' W' T C`` multiply-adds, H' and W' rounded up to whole windows.

Paper: Liu et al., "Swin Transformer", ICCV 2021, arXiv:2103.14030.
Published code: microsoft/Swin-Transformer@f82860b (``WindowAttention`` with the roll, partition and
mask of ``SwinTransformerBlock``). Its masks and index tables are computed here for the size at
hand. As there, a map that fits in a window in height or width is not shifted.

Sizes that windows do not divide: the classification code refuses them. Its detection code (and
timm) pads with zeros, which the bias of the projection turns into keys that take part in the
softmax; ``pad="zero"`` is that. By default padding takes no part (``pad="mask"``), and a window
larger than the map shrinks to it, with the middle of the bias table: the same function, for less.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, one_of, pair, probability, query_scale
from foveate.attention._dropout import Dropout
from foveate.attention.window._inside import (
    apply_dense,
    cut_into,
    dense,
    table_bias,
)
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "window",
    family="window",
    title="Window attention with shifts and a relative position bias (Swin)",
    paper="Liu et al., Swin Transformer, ICCV 2021, arXiv:2103.14030",
    source="microsoft/Swin-Transformer@f82860bfb5225915aca09c3227159ee9e1df874d",
    license="MIT",
    tags=("weights", "self", "local", "heads", "published", "fusable"),
    parity="Padding is masked by default; pad='zero' attends to it, as the detection code does.",
)
class WindowAttention(Mixer):
    """Self-attention inside (shifted) windows.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window_size: height and width of a window.
        shift_size: how far the windows are shifted, less than ``window_size``; Swin's blocks
            take 0 and ``window_size // 2`` in turn.
        pad: what cells beyond the map do to the others: ``"mask"``, nothing, or ``"zero"``, they
            are attended as zeros that went through the projection.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` by default.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window_size: int | tuple[int, int] = 7,
        shift_size: int | tuple[int, int] = 0,
        *,
        pad: str = "mask",
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.scale = query_scale(self.head_dim, qk_scale)
        self.window_size = wh, ww = pair(window_size, "window_size")
        self.shift_size = pair(shift_size, "shift_size", at_least=0)
        if self.shift_size[0] >= wh or self.shift_size[1] >= ww:
            raise ValueError(
                f"shift_size must be less than window_size={window_size}, got {shift_size}"
            )
        self.pad = one_of(pad, ("mask", "zero"), "pad")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * wh - 1) * (2 * ww - 1), num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.crop(layout.merge_heads(y), tuple(x.shape[2:])), x)

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        height, width = x.shape[2:]
        positions = layout.one_hot_positions(q, height, width)
        positions = layout.pad_to_size(positions, (q.shape[1], q.shape[2]))[:, :, :, None]
        y = self._attend(q, k, positions.expand(*q.shape[:4], -1))  # (B, H', W', h, H*W)
        return dense(layout.split_heads(layout.crop(y.flatten(3), (height, width)), self.num_heads))

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        height, width = x.shape[2:]
        v = layout.crop(self._project(x)[2].flatten(3), (height, width))
        y = apply_dense(weights, layout.split_heads(v, self.num_heads))
        if self.pad == "zero" and self.qkv.bias is not None:  # the weight that padding has
            beyond = self.qkv.bias[2 * self.dim :].view(self.num_heads, 1, self.head_dim)
            more = (1 - weights.sum(-1, keepdim=True)) * beyond  # (B, h, H*W, D)
            y = y + layout.merge_heads(more.transpose(1, 2)).unflatten(1, (height, width))
        return self._finish(y, x)

    @property
    def fused(self) -> bool:
        """Whether the table has been laid out."""
        return hasattr(self, "pair_bias")

    @torch.no_grad()
    def fuse(self) -> None:
        """Lay the table out as a number for every pair of a window's cells, once for all calls."""
        if not self.fused:
            self.pair_bias = nn.Parameter(self._bias(self.window_size).mT.contiguous())
            del self.relative_position_bias_table

    def multiply_adds(self, height: int, width: int) -> int:
        cells, padded = height * width, math.prod(self._padded((height, width)))
        projected = padded if self.pad == "zero" else cells
        pairs = cut_into(self._given((height, width)), self.window_size).pairs
        return (3 * projected + cells) * self.dim**2 + 2 * pairs * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        x = layout.pad_to_size(layout.to_channels_last(x), self._given(tuple(x.shape[2:])))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _given(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the map that is attended: with the padding where that takes part."""
        return self._padded(size) if self.pad == "zero" else size

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (layout.ceil_to_multiple(size[i], self.window_size[i]) for i in (0, 1))
        return rows, columns

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        size = (q.shape[1], q.shape[2])
        bias = self._bias(cut_into(size, self.window_size).size)
        shift = self._shift(*size)
        return ops.window_attention(
            q, k, v, self.window_size, shift, bias=bias, scale=self.scale, dropout_p=dropout_p
        )

    def _shift(self, height: int, width: int) -> tuple[int, int]:
        """None for a map that fits in a window, whose cells all see each other as they are."""
        (rows, columns), shift = self.window_size, self.shift_size
        if self.pad != "mask" or shift == (0, 0):
            return shift
        if layout.is_known(height) and layout.is_known(width):
            return (0, 0) if height <= rows or width <= columns else shift
        # 1 for a larger map, 0 for one that fits; a branch would fix an export to one of the two.
        larger = torch.sym_min(torch.sym_max(height - rows, 0), 1)
        larger = larger * torch.sym_min(torch.sym_max(width - columns, 0), 1)
        return shift[0] * larger, shift[1] * larger

    def _bias(self, window: tuple[int, int]) -> Tensor:
        """``(h, T, T)``; a window that shrank to the map takes the middle of the table."""
        if not self.fused:
            return table_bias(self.relative_position_bias_table, self.window_size, window)
        wh, ww = window
        bias = self.pair_bias.view(-1, *self.window_size, *self.window_size)
        return bias[:, :wh, :ww, :wh, :ww].flatten(3).flatten(1, 2).mT

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the tables that the published code keeps: they follow from the size."""
        tables = ("relative_position_index", "attn_mask")
        return {k: value for k, value in state.items() if k.rpartition(".")[2] not in tables}
