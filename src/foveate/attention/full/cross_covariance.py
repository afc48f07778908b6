"""Cross-covariance attention: channels attend to channels, by what they have in common.

    out = v softmax(t k^T q)^T,   q, k normalised to length one along the tokens,

a D x D map of attention a head between channels, whose size does not depend on the number of
tokens, with a learned temperature t a head. Tokens do not see each other but through it.

Shapes: x (B, N, C), heads h of D = C / h channels; t (h, 1, 1).
Cost: ``4 N C^2 + 2 N C^2 / h`` multiply-adds, linear in N.

Paper: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021,
arXiv:2106.09681.
Published code: facebookresearch/xcit@82f5291 ``XCA`` and ``LPI``. A masked token, which the code
does not know, counts as zero in q and k and is left out of no output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import (
    check_key_mask,
    check_map,
    check_tokens,
    head_dim,
    odd,
    positive,
    probability,
)
from foveate.attention._dropout import Dropout
from foveate.contracts import TokenMixer
from foveate.registry import register


@register(
    "cross_covariance",
    family="full",
    title="Cross-covariance attention between channels (XCiT)",
    paper="El-Nouby et al., XCiT, NeurIPS 2021, arXiv:2106.09681",
    source="facebookresearch/xcit@82f5291f412604970c39a912586e008ec009cdca",
    license="Apache-2.0",
    tags=("heads", "unordered", "published"),
)
class CrossCovarianceAttention(TokenMixer):
    """Attention between the channels of a head.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        qkv_bias: whether q, k, v projections have a bias; by itself the published module has none,
            in every published network it has.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = Dropout(probability(attn_drop, "attn_drop"))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # (B, h, D, N)
        if key_mask is not None:
            q, k = (t.masked_fill(~key_mask[:, None, None], 0) for t in (q, k))
        q, k = (F.normalize(t, dim=-1) for t in (q, k))
        weights = (q @ k.mT * self.temperature).softmax(-1)  # (B, h, D, D)
        y = self.attn_drop(weights) @ v
        y = y.permute(0, 3, 1, 2).flatten(2)  # (B, N, C)
        return self.proj_drop(self.proj(y))

    def multiply_adds(self, tokens: int) -> int:
        return 4 * tokens * self.dim**2 + 2 * tokens * self.dim * self.head_dim


class LocalPatchInteraction(nn.Module):
    """XCiT's block lets neighbours talk here: two depthwise convolutions of a map.

    Args:
        dim: channels.
        kernel_size: of the convolutions; odd.
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        around = odd(kernel_size, "kernel_size") // 2
        self.conv1 = nn.Conv2d(dim, dim, kernel_size, 1, around, groups=dim)
        self.bn = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size, 1, around, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        check_map(x, self.dim)
        return self.conv2(self.bn(F.gelu(self.conv1(x))))
