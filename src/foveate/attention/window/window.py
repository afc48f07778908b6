"""Window attention: cells attend inside windows that do not overlap, shifted in every other block.

    out = softmax(q k^T / sqrt(D) + b) v   inside each window of wh x ww cells,
    b = table[query - key], one number per head and offset

A shift by half a window joins what the unshifted layer kept apart. The map is rolled, so that the
number of windows stays the same; cells that only the roll brought together do not see each other.

Shapes: x (B, C, H, W), n windows of T = wh * ww cells, heads h of D = C / h channels.
Cost: ``3 H' W' C^2 + H W C^2 + 2 H' W' T C`` multiply-adds, H' and W' rounded up to whole windows.

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

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import layout
from foveate.arguments import check_map, head_dim, one_of, pair, probability
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "window",
    family="window",
    title="Window attention with shifts and a relative position bias (Swin)",
    paper="Liu et al., Swin Transformer, ICCV 2021, arXiv:2103.14030",
    source="microsoft/Swin-Transformer@f82860bfb5225915aca09c3227159ee9e1df874d",
    licence="MIT",
    tags=("weights", "self", "local", "heads", "published"),
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
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
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
        self.proj_drop = nn.Dropout(probability(proj_drop, "proj_drop"))
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * wh - 1) * (2 * ww - 1), num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        windows = self._windows(*x.shape[2:])
        q, k, v = self._project(windows.split(layout.to_channels_last(x)))
        y = self._attend(q, k, v, windows, self.attn_drop if self.training else 0.0)
        return self._finish(windows.merge(y), x)

    def weights(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        height, width = x.shape[2:]
        windows = self._windows(height, width)
        q, k, _ = self._project(windows.split(layout.to_channels_last(x)))
        positions = windows.split(layout.one_hot_positions(q, height, width))  # (1, n, T, H*W)
        values = positions[:, :, :, None].expand(*q.shape[:-1], -1)
        y = windows.merge(self._attend(q, k, values, windows))  # (B, H, W, h*H*W)
        return layout.split_heads(y.flatten(1, 2), self.num_heads).transpose(1, 2)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        check_map(x, self.dim)
        v = self._project(layout.map_to_tokens(x)[:, None])[2][:, 0].transpose(1, 2)
        y = weights @ v  # (B, h, H*W, D)
        if self.pad == "zero" and self.qkv.bias is not None:  # the weight that padding has
            beyond = self.qkv.bias[2 * self.dim :].view(self.num_heads, 1, self.head_dim)
            y = y + (1 - weights.sum(-1, keepdim=True)) * beyond
        y = y.transpose(1, 2).flatten(-2).unflatten(1, tuple(x.shape[2:]))
        return self._finish(y, x)

    def multiply_adds(self, height: int, width: int) -> int:
        windows = self._windows(height, width)
        cells, area = windows.padded[0] * windows.padded[1], windows.size[0] * windows.size[1]
        project = (3 * cells + height * width) * self.dim**2
        return project + 2 * cells * area * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, n, T, h, D)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, windows: _Windows, dropout_p: float = 0.0
    ) -> Tensor:
        bias = self._bias(windows.size)[None]  # (1, h, T, T)
        together = windows.together(self.pad == "mask", q.device)
        if together is not None:
            bias = bias.masked_fill(~together[:, None], float("-inf"))  # (n, h, T, T)
            bias = bias.expand(q.shape[0], -1, -1, -1, -1).flatten(0, 1)
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B*n, h, T, D)
        bias = bias.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
        return layout.merge_heads(y.transpose(1, 2)).unflatten(0, (-1, windows.count))

    def _bias(self, window: tuple[int, int]) -> Tensor:
        """``(h, T, T)``; a window that shrank to the map takes the middle of the table."""
        (full_h, full_w), (wh, ww) = self.window_size, window
        table = self.relative_position_bias_table.view(2 * full_h - 1, 2 * full_w - 1, -1)
        table = table[full_h - wh : full_h + wh - 1, full_w - ww : full_w + ww - 1].flatten(0, 1)
        return table[layout.relative_index(window, table.device)].permute(2, 0, 1)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

    def _windows(self, height: int, width: int) -> _Windows:
        window, shift = self.window_size, self.shift_size
        if shift != (0, 0) and self.pad == "mask" and (height <= window[0] or width <= window[1]):
            shift = (0, 0)
        if self.pad == "mask" and layout.is_known(height) and layout.is_known(width):
            window = (min(window[0], height), min(window[1], width))
        return _Windows((height, width), window, shift)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the tables that the published code keeps: they follow from the size."""
        tables = ("relative_position_index", "attn_mask")
        return {k: value for k, value in state.items() if k.rpartition(".")[2] not in tables}


class _Windows(NamedTuple):
    """How one map is cut: its size (H, W), the windows' size and their shift."""

    map: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        height, width = (layout.ceil_to_multiple(self.map[i], self.size[i]) for i in (0, 1))
        return height, width

    @property
    def count(self) -> int:
        return (self.padded[0] // self.size[0]) * (self.padded[1] // self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, n, T, C)``."""
        x = layout.pad_to_size(x, self.padded)
        if self.shift != (0, 0):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        return layout.window_partition(x, self.size)

    def merge(self, y: Tensor) -> Tensor:
        """``(B, n, T, C) -> (B, H, W, C)``."""
        y = layout.window_merge(y, self.size, self.padded)
        if self.shift != (0, 0):
            y = y.roll(self.shift, (1, 2))
        return layout.crop(y, self.map)

    def together(self, mask_padding: bool, device: torch.device) -> Tensor | None:
        """``(n, T, T)``: which cells of a window may see each other; None: all may."""
        known = layout.is_known(self.map[0]) and layout.is_known(self.map[1])
        exact = known and self.padded == self.map
        if self.shift == (0, 0) and (exact or not mask_padding):
            return None
        (down, below), (across, beside) = (self._axis(i, device) for i in (0, 1))
        labels = 2 * down[:, None] + across  # cells that the roll did not bring together
        if mask_padding:
            labels = 2 * labels + (below[:, None] | beside)
        labels = layout.window_partition(labels[None, :, :, None], self.size)[0, :, :, 0]
        return labels[:, :, None] == labels[:, None, :]

    def _axis(self, axis: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Along one axis after the roll: which cells came round the end, which are padding."""
        size, padded, shift = self.map[axis], self.padded[axis], self.shift[axis]
        place = torch.arange(padded, device=device)
        wrapped = place >= padded - shift
        return wrapped.int(), ~wrapped & (place + shift >= size)
