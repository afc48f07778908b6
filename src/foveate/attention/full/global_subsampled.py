"""Global sub-sampled attention: every position asks one summary of each cell of the map.

    z = norm(S(x)),   S sums up cells of r x r,   k, v = W_k z, W_v z
    out = softmax(q k^T / sqrt(D)) v,   heads side by side, then a projection

It carries what attention inside windows (``locally_grouped``) leaves inside them; r is their size.

Shapes: x (B, C, H, W), heads h of D = C / h channels, cells K = floor(H / r) floor(W / r).
Cost: ``2 H W C^2 + 2 K C^2 + 2 H W K C`` multiply-adds, and the summaries: ``K r^2 C^2`` by
convolution, ``K r^2 C`` depthwise, none by mean.

Paper: Chu et al., "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
NeurIPS 2021, arXiv:2104.13840.
Published code: Meituan-AutoML/Twins@c1ff671 ``Attention`` with ``sr_ratio``, a strided convolution;
depthwise convolution and mean are the other summaries that the paper tries. As there, rows and
columns beyond the last whole cell are not read; a map smaller than a cell, an error there, is
padded with zeros to one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import layout
from foveate.arguments import check_map, head_dim, one_of, positive, probability
from foveate.contracts import Mixer
from foveate.registry import register

SUMMARIES = ("convolution", "depthwise", "mean")


@register(
    "global_subsampled",
    family="full",
    title="Global attention to a summary of each cell (Twins)",
    paper="Chu et al., Twins: Revisiting the Design of Spatial Attention in Vision Transformers, "
    "NeurIPS 2021, arXiv:2104.13840",
    source="Meituan-AutoML/Twins@c1ff6714969ad8ef330e75cf97bd310f7488f529",
    licence="Apache-2.0",
    tags=("weights", "heads", "published"),
    parity="Maps smaller than a cell are padded to one.",
)
class GlobalSubsampledAttention(Mixer):
    """Attention of every position to summaries of the map's cells.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        sr_ratio: side r of a cell; 1 leaves every position its own key, without norm.
        summary: "convolution", "depthwise" or "mean".
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        sr_ratio: int = 7,
        *,
        summary: str = "convolution",
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.sr_ratio = positive(sr_ratio, "sr_ratio")
        self.summary = one_of(summary, SUMMARIES, "summary")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(probability(proj_drop, "proj_drop"))
        if sr_ratio > 1:
            if summary == "mean":
                self.sr = nn.AvgPool2d(sr_ratio)
            else:
                groups = dim if summary == "depthwise" else 1
                self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio, groups=groups)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        q, (k, v) = self._queries(x), self._cells(x)
        dropout_p = self.attn_drop if self.training else 0.0
        return self._finish(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p), x)

    def weights(self, x: Tensor) -> Tensor:
        """``(B, h, H*W, H*W)``: the weight of a cell, spread evenly over its positions."""
        q, (k, _) = self._queries(x), self._cells(x)
        weights = (q * self.head_dim**-0.5 @ k.mT).softmax(-1)  # (B, h, H*W, K)
        members = self._members(x, weights)
        return weights @ (members / members.sum(0)).mT

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        _, v = self._cells(x)
        return self._finish(weights @ self._members(x, weights) @ v, x)

    def multiply_adds(self, height: int, width: int) -> int:
        queries = height * width
        cells = max(height // self.sr_ratio, 1) * max(width // self.sr_ratio, 1)
        area = self.sr_ratio**2 if self.sr_ratio > 1 else 0
        each = {"convolution": area * self.dim**2, "depthwise": area * self.dim, "mean": 0}
        linear = 2 * (queries + cells) * self.dim**2
        return linear + 2 * queries * cells * self.dim + cells * each[self.summary]

    def _queries(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q = layout.split_heads(self.q(layout.map_to_tokens(x)), self.num_heads)
        return q.transpose(1, 2)  # (B, h, H*W, D)

    def _cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the cells: ``(B, h, K, D)`` each."""
        check_map(x, self.dim)
        if self.sr_ratio > 1:
            height, width = (torch.sym_max(n, self.sr_ratio) for n in x.shape[2:])
            x = layout.pad_to_size(layout.to_channels_last(x), (height, width))
            z = self.norm(layout.map_to_tokens(self.sr(x.permute(0, 3, 1, 2))))
        else:
            z = layout.map_to_tokens(x)
        kv = self.kv(z).unflatten(-1, (2, self.num_heads, self.head_dim))  # (B, K, 2, h, D)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def _members(self, x: Tensor, like: Tensor) -> Tensor:
        """``(H*W, K)``: one where the position lies in the cell."""
        axes = []
        for length in x.shape[2:]:
            cell = torch.arange(length, device=x.device) // self.sr_ratio
            cells = torch.arange(max(length // self.sr_ratio, 1), device=x.device)
            axes.append((cell[:, None] == cells).to(like.dtype))  # (H, Hk), (W, Wk)
        rows, columns = axes
        return (rows[:, None, :, None] * columns[None, :, None]).flatten(2).flatten(0, 1)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        y = self.proj_drop(self.proj(layout.merge_heads(y.transpose(1, 2))))
        return layout.tokens_to_map(y, x.shape[2], x.shape[3], like=x)
