"""Shuffled window attention: the cells of a window are spread over the whole map.

    out = softmax(q k^T / sqrt(D) + b) v   inside each group of s x s cells

A group takes every (H / s)-th row and every (W / s)-th column. In every other block it is a window
of neighbours instead, so that two blocks join all cells. b is Swin's table of biases, looked up by
the cells' places in the group.

Shapes: x (B, C, H, W), groups of T = s^2 cells, heads h of D = C / h channels.
Cost: ``4 H W C^2 + 2 H' W' T C`` multiply-adds, H' and W' rounded up to multiples of s.

Paper: Huang et al., "Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer", 2021,
arXiv:2106.03650.
Published code: mulinmeng/Shuffle-Transformer@8ba81ea ``Attention``: q, k, v have no bias whatever
``qkv_bias`` says, and ``attn_drop`` does nothing. Both work here; ``qkv_bias`` is off by default.
The map's size must be a multiple of s there; here the rest is padded, and the padding not attended.
The depthwise convolution that joins windows belongs to the block, not to the attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, positive, probability
from foveate.attention._dropout import Dropout
from foveate.attention.window._inside import (
    apply_dense,
    cut_into,
    dense,
    one_hot_values,
    table_bias,
)
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "shuffle",
    family="window",
    title="Attention in windows whose cells are spread over the map (Shuffle Transformer)",
    paper="Huang et al., Shuffle Transformer, 2021, arXiv:2106.03650",
    source="mulinmeng/Shuffle-Transformer@8ba81eacf01314d4d26ff514f61badc7eebd33de",
    license="MIT",
    tags=("weights", "self", "local", "heads", "published"),
    parity="Maps that the window does not divide, refused there, are padded, the padding masked.",
)
class ShuffleAttention(Mixer):
    """Self-attention inside spread groups, or inside windows.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window_size: rows, and columns, of a group.
        shuffle: whether a group is spread over the map; else it is a window of neighbours.
        rel_pos_bias: whether logits get a learned bias per head and offset.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window_size: int = 7,
        *,
        shuffle: bool = True,
        rel_pos_bias: bool = True,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.window_size = positive(window_size, "window_size")
        self.shuffle = shuffle
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        self.register_parameter("relative_position_bias_table", None)
        if rel_pos_bias:
            table = torch.empty((2 * window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(table)
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.merge_heads(y), x)

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        return dense(self._attend(q, k, one_hot_values(q)))

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._finish(apply_dense(weights, self._project(x)[2]), x)

    def multiply_adds(self, height: int, width: int) -> int:
        pairs = cut_into((height, width), (self.window_size, self.window_size)).pairs
        return 4 * height * width * self.dim**2 + 2 * pairs * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        qkv = self.to_qkv(layout.to_channels_last(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        part = (self.window_size, self.window_size)
        bias = self._bias(cut_into(tuple(q.shape[1:3]), part).size)
        return ops.window_attention(
            q, k, v, part, spread=self.shuffle, bias=bias, dropout_p=dropout_p
        )

    def _bias(self, group: tuple[int, int]) -> Tensor | None:
        """``(h, T, T)``; a group that shrank to the map takes the middle of the table."""
        if self.relative_position_bias_table is None:
            return None
        full = (self.window_size, self.window_size)
        return table_bias(self.relative_position_bias_table, full, group)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convolutions of one by one are linear layers here; the index table is not kept."""
        linear = ("to_qkv.weight", "proj.weight")
        return {
            key: value.flatten(1) if key in linear else value
            for key, value in state.items()
            if key != "relative_position_index"
        }
