"""Spatial-reduction attention: every position attends to a smaller copy of the map.

    out = softmax(q k^T / sqrt(D)) v,   q = x W_q,   [k, v] = reduce(x) W_kv

PVT reduces by a convolution with kernel and stride r, then a layer normalisation. PVT v2's linear
form pools the map to 7 x 7 instead, whatever its size, and so costs linear time.

Shapes: x (B, C, H, W), M reduced positions, (H / r)(W / r) or 49; heads h of D = C / h channels.
Cost: ``2 H W C^2 + 2 M C^2 + 2 H W M C`` multiply-adds, and ``M r^2 C^2`` for the reduction (r = 1
in the linear form).

Papers: Wang et al., "Pyramid Vision Transformer", ICCV 2021, arXiv:2102.12122; "PVT v2", CVMJ 2022,
arXiv:2106.13797.
Published code: whai362/PVT@57e2dfa ``Attention`` of pvt.py and pvt_v2.py; timm's has the same
names. As there, rows and columns that r does not divide are left out of the reduced map; a map
smaller than r, refused there, is padded with zeros to r.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import layout
from foveate.arguments import check_map, head_dim, positive, probability, query_scale
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.contracts import Mixer
from foveate.registry import register

_POOLED = 7


@register(
    "spatial_reduction",
    family="full",
    title="Attention to a reduced map (PVT, PVT v2 and its linear form)",
    paper="Wang et al., Pyramid Vision Transformer, ICCV 2021, arXiv:2102.12122; "
    "PVT v2, CVMJ 2022, arXiv:2106.13797",
    source="whai362/PVT@57e2dfaa5a46f9050d76f306a4fcd9a7c061f520",
    license="Apache-2.0",
    tags=("heads", "published"),
    parity="Maps smaller than sr_ratio, refused there, are padded to it.",
)
class SpatialReductionAttention(Mixer):
    """Self-attention whose keys and values come from a reduced map.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        sr_ratio: how many times smaller the reduced map is in height and width; 1 keeps it.
        linear: pool to 7 x 7 instead (PVT v2-Li); ``sr_ratio`` plays no part then.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` by default.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        sr_ratio: int = 2,
        *,
        linear: bool = False,
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
        self.sr_ratio = positive(sr_ratio, "sr_ratio")
        self.linear = linear
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        if linear:
            self.sr = nn.Conv2d(dim, dim, 1)
            self.norm = nn.LayerNorm(dim)
        elif sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        y = self.proj_drop(self.proj(self._attend(*self._project(x))))
        return layout.tokens_to_map(y, *x.shape[2:], like=x)

    def multiply_adds(self, height: int, width: int) -> int:
        cells = height * width
        if self.linear:
            keys = _POOLED**2
            reduction = keys * self.dim**2
        else:
            keys = math.prod(self._reduced_size(height, width))
            reduction = keys * self.sr_ratio**2 * self.dim**2 if self.sr_ratio > 1 else 0
        return reduction + 2 * (cells + keys) * self.dim**2 + 2 * cells * keys * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(B, H*W, C)``, then keys and values ``(B, M, C)``."""
        k, v = self.kv(self._reduce(x)).chunk(2, -1)
        return self.q(layout.map_to_tokens(x)), k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout_p = self.attn_drop if self.training else 0.0
        q, k, v = map(self._heads, (q, k, v))
        y = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, scale=self.scale
        )  # (B, h, H*W, D)
        return layout.merge_heads(y.transpose(1, 2))

    def _reduce(self, x: Tensor) -> Tensor:
        """``(B, M, C)``."""
        if self.linear:
            reduced = self.sr(F.adaptive_avg_pool2d(x, _POOLED))
            return F.gelu(self.norm(layout.map_to_tokens(reduced)))
        if self.sr_ratio == 1:
            return layout.map_to_tokens(x)
        height, width = x.shape[2:]
        # The compiler has integers here, and compiles small maps anew.
        if not isinstance(height, torch.SymInt) and not isinstance(width, torch.SymInt):
            down, right = max(self.sr_ratio - height, 0), max(self.sr_ratio - width, 0)
            x = F.pad(x, (0, right, 0, down)) if down or right else x
        return self.norm(layout.map_to_tokens(self.sr(x)))

    def _reduced_size(self, height: int, width: int) -> tuple[int, int]:
        return max(height // self.sr_ratio, 1), max(width // self.sr_ratio, 1)

    def _heads(self, x: Tensor) -> Tensor:
        return layout.split_heads(x, self.num_heads).transpose(1, 2)
