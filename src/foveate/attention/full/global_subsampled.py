"""Global sub-sampled attention: every position asks one summary of each cell of the map.

    z = norm(S(x)),   S sums up cells of r x r,   k, v = W_k z, W_v z
    out = softmax(q k^T / sqrt(D)) v,   heads side by side, then a projection

It carries what attention inside windows (``locally_grouped``) leaves inside them; r is their size.
With a convolution for S this is PVT's ``spatial_reduction``, whose code it shares.

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

from foveate import layout
from foveate.arguments import check_map, one_of
from foveate.attention._softmax import wide_product
from foveate.attention.full.spatial_reduction import SpatialReductionAttention
from foveate.registry import register

SUMMARIES = ("convolution", "depthwise", "mean")


@register(
    "global_subsampled",
    family="full",
    title="Global attention to a summary of each cell (Twins)",
    paper="Chu et al., Twins: Revisiting the Design of Spatial Attention in Vision Transformers, "
    "NeurIPS 2021, arXiv:2104.13840",
    source="Meituan-AutoML/Twins@c1ff6714969ad8ef330e75cf97bd310f7488f529",
    license="Apache-2.0",
    tags=("weights", "heads", "published"),
    parity="Maps smaller than a cell are padded to one.",
)
class GlobalSubsampledAttention(SpatialReductionAttention):
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
        super().__init__(
            dim,
            num_heads,
            sr_ratio,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.summary = one_of(summary, SUMMARIES, "summary")
        if sr_ratio > 1 and summary == "mean":
            self.sr = nn.AvgPool2d(sr_ratio)
        elif sr_ratio > 1 and summary == "depthwise":
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio, groups=dim)

    def weights(self, x: Tensor) -> Tensor:
        """``(B, h, H*W, H*W)``: the weight of a cell, spread evenly over its positions."""
        check_map(x, self.dim)
        q = self._heads(self.q(layout.map_to_tokens(x)))
        k = self._heads(self.kv(self._reduce(x))[..., : self.dim])
        logits = wide_product(q * self.head_dim**-0.5, k.mT)  # (B, h, H*W, K)
        weights = logits.softmax(-1).to(x.dtype)
        members = self._members(x, weights)
        return weights @ (members / members.sum(0)).mT

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        check_map(x, self.dim)
        v = self._heads(self.kv(self._reduce(x))[..., self.dim :])
        y = weights @ self._members(x, weights) @ v  # (B, h, H*W, D)
        y = self.proj_drop(self.proj(layout.merge_heads(y.transpose(1, 2))))
        return layout.tokens_to_map(y, x.shape[2], x.shape[3], like=x)

    def multiply_adds(self, height: int, width: int) -> int:
        total = super().multiply_adds(height, width)
        if self.sr_ratio == 1 or self.summary == "convolution":
            return total
        cells = max(height // self.sr_ratio, 1) * max(width // self.sr_ratio, 1)
        each = self.dim if self.summary == "depthwise" else 0
        return total - cells * self.sr_ratio**2 * (self.dim**2 - each)

    def _members(self, x: Tensor, like: Tensor) -> Tensor:
        """``(H*W, K)``: one where the position belongs to the cell."""
        axes = []
        for length in x.shape[2:]:
            cell = torch.arange(length, device=x.device) // self.sr_ratio
            cells = torch.arange(max(length // self.sr_ratio, 1), device=x.device)
            axes.append((cell[:, None] == cells).to(like.dtype))  # (H, Hk), (W, Wk)
        rows, columns = axes
        return (rows[:, None, :, None] * columns[None, :, None]).flatten(2).flatten(0, 1)
