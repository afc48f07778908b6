"""Axial attention: every position attends to its column, and to its row.

    y = column(x) + row(x),   or   y = row(column(x)),
    each of them softmax(q k^T / sqrt(D)) v and a projection, with weights of its own

A volume or a video has an axis more, its depth or time, which comes first.

Shapes: x (B, C, H, W) or (B, C, D, H, W), heads h of C / h channels.
Cost: ``8 H W C^2 + 2 H W (H + W) C`` multiply-adds, ``12 D H W C^2 + 2 D H W (D + H + W) C`` of a
volume.

Paper: Ho et al., "Axial Attention in Multidimensional Transformers", 2019, arXiv:1912.12180.
Published code: lucidrains/axial-attention@eff2c10 ``AxialAttention``, whose directions are added;
with ``sum_axial_out=False`` the row's attention takes what the column's gave, without a
residual connection between them. ``num_dimensions=3`` there is ``volume=True`` here. q, k and v
have no bias there, nor here by default.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, probability
from foveate.attention._dropout import Dropout
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
    """Self-attention along the columns and along the rows of a map, or all axes of a volume.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        volume: whether it takes volumes ``(B, C, D, H, W)`` instead of maps.
        sum_axial_out: whether the directions are added; else each takes what the one before gave.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        volume: bool = False,
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
        self.axes = ("depth", "column", "row")[0 if volume else 1 :]
        for axis, name in enumerate(self.axes):
            setattr(self, name, _OneAxis(dim, num_heads, axis, len(self.axes), qkv_bias, drop))
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim, axes=len(self.axes))
        y = x.movedim(1, -1)  # (B, H, W, C) or (B, D, H, W, C)
        first, *others = (getattr(self, name) for name in self.axes)
        attended = first(y)
        for along in others:
            attended = attended + along(y) if self.sum_axial_out else along(attended)
        return _to_channels_first(self.proj_drop(attended), like=x)

    def multiply_adds(self, *size: int) -> int:
        projections = 4 * len(self.axes) * self.dim
        return math.prod(size) * self.dim * (projections + 2 * sum(size))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the directions and join the projections of q with those of k and v."""
        for index, axis in enumerate(self.axes):
            there = f"axial_attentions.{index}.fn."
            state = {
                key.replace(there, f"{axis}.").replace("to_out", "proj"): value
                for key, value in state.items()
            }
        for axis in self.axes:
            if f"{axis}.to_q.weight" in state:
                q, kv = (state.pop(f"{axis}.{name}.weight") for name in ("to_q", "to_kv"))
                state[f"{axis}.qkv.weight"] = torch.cat([q, kv])
        return state


class _OneAxis(nn.Module):
    """Attention along one ``axis`` of the ``axes`` of ``(B, ..., C)``."""

    def __init__(
        self, dim: int, num_heads: int, axis: int, axes: int, qkv_bias: bool, attn_drop: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.axis = axis
        self.is_last = axis == axes - 1
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self._as_maps(self.qkv(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        line: WindowSize = (1, None) if self.is_last else (None, 1)
        dropout_p = self.attn_drop if self.training else 0.0
        y = ops.window_attention(q, k, v, line, dropout_p=dropout_p)
        return self.proj(layout.merge_heads(y).reshape(x.shape))

    def _as_maps(self, x: Tensor) -> Tensor:
        """``(B, ..., C)`` as maps in which the axis is that of the rows, or the last one."""
        before = self.axis - self.is_last  # axes that only make more maps
        x = x.flatten(0, before)
        return x if self.is_last else x.flatten(2, -2)


def _to_channels_first(y: Tensor, like: Tensor) -> Tensor:
    """``(B, ..., C) -> (B, C, ...)`` in the memory format of the map or volume ``like``."""
    if like.dim() == 4:
        return layout.to_channels_first(y, like)
    contiguous = like.is_contiguous() or not like.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    return y.movedim(-1, 1).contiguous() if contiguous else y.contiguous().movedim(-1, 1)
