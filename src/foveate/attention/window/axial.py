"""Axial attention: every position attends to its column, and to its row.

    y = column(x) + row(x),   or   y = row(column(x)),
    each of them softmax(q k^T / sqrt(D)) v and a projection, with weights of its own

Shapes: x (B, C, H, W), heads h of D = C / h channels.
Cost: ``8 H W C^2 + 2 H W (H + W) C`` multiply-adds.

Paper: Ho et al., "Axial Attention in Multidimensional Transformers", 2019, arXiv:1912.12180.
Published code: lucidrains/axial-attention@eff2c10 ``AxialAttention``, whose two directions are
added; with ``sum_axial_out=False`` the row's attention takes what the column's gave, without a
residual connection between them. q, k and v have no bias there, nor here by default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, probability
from foveate.attention.window._inside import WindowSize
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "axial",
    family="window",
    title="Axial attention along columns and rows",
    paper="Ho et al., Axial Attention in Multidimensional Transformers, 2019, arXiv:1912.12180",
    source="lucidrains/axial-attention@eff2c10c2e76c735a70a6b995b571213adffbbb7",
    license="MIT",
    tags=("heads", "published"),
)
class AxialAttention(Mixer):
    """Self-attention along the columns and along the rows of a map.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        sum_axial_out: whether the two directions are added; else the rows follow the columns.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        sum_axial_out: bool = True,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        head_dim(dim, num_heads)
        self.num_heads = num_heads
        self.sum_axial_out = sum_axial_out
        drop = probability(attn_drop, "attn_drop")
        self.column = _OneAxis(dim, num_heads, (None, 1), qkv_bias, drop)
        self.row = _OneAxis(dim, num_heads, (1, None), qkv_bias, drop)
        self.proj_drop = nn.Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        y = layout.to_channels_last(x)
        y = self.column(y) + self.row(y) if self.sum_axial_out else self.row(self.column(y))
        return layout.to_channels_first(self.proj_drop(y), like=x)

    def multiply_adds(self, height: int, width: int) -> int:
        return height * width * self.dim * (8 * self.dim + 2 * (height + width))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the two directions and join the projections of q with those of k and v."""
        state = {
            key.replace("axial_attentions.0.fn.", "column.")
            .replace("axial_attentions.1.fn.", "row.")
            .replace("to_out", "proj"): value
            for key, value in state.items()
        }
        for axis in ("column", "row"):
            if f"{axis}.to_q.weight" in state:
                q, kv = (state.pop(f"{axis}.{name}.weight") for name in ("to_q", "to_kv"))
                state[f"{axis}.qkv.weight"] = torch.cat([q, kv])
        return state


class _OneAxis(nn.Module):
    """Attention along one axis of ``(B, H, W, C)``."""

    def __init__(
        self, dim: int, num_heads: int, part: WindowSize, qkv_bias: bool, attn_drop: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.part = part
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        dropout_p = self.attn_drop if self.training else 0.0
        y = ops.window_attention(q, k, v, self.part, dropout_p=dropout_p)
        return self.proj(layout.merge_heads(y))
