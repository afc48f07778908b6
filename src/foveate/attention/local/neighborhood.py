"""Neighborhood attention: every position attends to its k x k nearest ones, dilated or not.

    out_p = sum_j softmax_j(q_p k_j^T / sqrt(D) + b[j - p]) v_j,   j in the k x k neighbourhood of p

Near a border the neighbourhood moves inward and keeps its k * k positions: none is padded. With a
dilation d it holds every d-th position, of the same remainder modulo d as the query.

Shapes: x (B, C, H, W), heads h of D = C / h channels, table of biases b (h, 2k - 1, 2k - 1).
Cost: ``4 H W C^2 + 2 H W k^2 C`` multiply-adds.

Papers: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143;
Hassani and Shi, "Dilated Neighborhood Attention Transformer", arXiv:2209.15001.
Published code: SHI-Labs/NATTEN@3b54c76 (v0.14.6) ``NeighborhoodAttention2D``. As there, a map
smaller than ``k * d`` is padded with zeros below and to the right *before* the projection, so that
the padding carries the projection's bias and is attended; what a query gives to it is then missing
from the rows of ``weights``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout
from foveate.arguments import check_map, head_dim, positive, probability, query_scale
from foveate.attention._dropout import Dropout
from foveate.contracts import Mixer
from foveate.ops import local_attention
from foveate.registry import register


@register(
    "neighborhood",
    family="local",
    title="Neighborhood attention, plain or dilated (NAT, DiNAT)",
    paper="Hassani et al., Neighborhood Attention Transformer, CVPR 2023, arXiv:2204.07143; "
    "Dilated Neighborhood Attention Transformer, arXiv:2209.15001",
    source="SHI-Labs/NATTEN@3b54c76185904f3cb59a49fff7bc044e4513d106",
    license="MIT",
    tags=("weights", "self", "local", "heads", "published"),
    parity="Maps smaller than kernel_size * dilation are padded, and the padding is attended.",
)
class NeighborhoodAttention(Mixer):
    """Self-attention of every position to its nearest ones.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        kernel_size: height and width of the neighbourhood, odd and at least 3.
        dilation: distance between the positions of a neighbourhood.
        rel_pos_bias: whether logits get a learned bias per head and offset.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` by default.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        kernel_size: int = 7,
        dilation: int = 1,
        *,
        rel_pos_bias: bool = True,
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
        self.kernel_size = positive(kernel_size, "kernel_size")
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise ValueError(f"kernel_size must be odd and at least 3, got {kernel_size}")
        self.dilation = positive(dilation, "dilation")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        self.register_parameter("rpb", None)
        if rel_pos_bias:
            self.rpb = nn.Parameter(
                torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
            )
            nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.crop(layout.merge_heads(y), tuple(x.shape[2:])), x)

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        height, width = x.shape[2:]
        positions = layout.one_hot_positions(q, height, width)
        positions = layout.pad_to_size(positions, tuple(q.shape[1:3]))
        values = positions[:, :, :, None].expand(*q.shape[:-1], -1)
        y = self._attend(q, k, values)[:, :height, :width]  # (B, H, W, h, H*W)
        return y.flatten(1, 2).transpose(1, 2)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        height, width = x.shape[2:]
        v = self._project(x)[2]
        padded = tuple(v.shape[1:3]) != (height, width)
        y = weights @ v[:, :height, :width].flatten(1, 2).transpose(1, 2)  # (B, h, H*W, D)
        if padded and self.qkv.bias is not None:  # the rest of each row is the padding's
            beyond = self.qkv.bias[2 * self.dim :].view(self.num_heads, 1, self.head_dim)
            y = y + (1 - weights.sum(-1, keepdim=True)) * beyond
        y = layout.merge_heads(y.transpose(1, 2)).unflatten(1, (height, width))
        return self._finish(y, x)

    def multiply_adds(self, height: int, width: int) -> int:
        padded_height, padded_width = self._size(height, width)
        cells = padded_height * padded_width
        project = (3 * cells + height * width) * self.dim**2
        return project + 2 * cells * self.kernel_size**2 * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of the map, padded to the neighbourhood where it is smaller."""
        check_map(x, self.dim)
        x = layout.pad_to_size(layout.to_channels_last(x), self._size(*x.shape[2:]))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        return local_attention(
            q, k, v, self.kernel_size, self.dilation, self.rpb, self.scale, dropout_p=dropout_p
        )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        reach = self.kernel_size * self.dilation
        return torch.sym_max(height, reach), torch.sym_max(width, reach)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)
