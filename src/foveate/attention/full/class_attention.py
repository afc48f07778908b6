"""Class attention: the class token alone asks, of itself and of every patch.

    y_0 = softmax(q_0 k^T / sqrt(D)) v,   then a projection;   y_i = x_i for the patches i > 0

The class token joins the network only in its last layers and reads what the patches say; the
patches do not change. Token 0 is the class token.

Shapes: x (B, N, C), heads h of D = C / h channels.
Cost: ``2 (N + 1) C^2 + 2 N C`` multiply-adds, linear in N.

Paper: Touvron et al., "Going Deeper with Image Transformers", ICCV 2021, arXiv:2103.17239 (CaiT);
used again by El-Nouby et al., "XCiT", NeurIPS 2021, arXiv:2106.09681.
Published code: facebookresearch/deit@7e160fe ``Class_Attention`` gives the class token only, with
a projection each for q, k and v; facebookresearch/xcit@82f5291 ``ClassAttention`` gives all tokens
and has one projection for the three. The function is the same; both checkpoints load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_key_mask, check_tokens, head_dim, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._softmax import masked_softmax, wide_product
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads, split_heads
from foveate.registry import register


@register(
    "class_attention",
    family="full",
    title="Class attention: the class token reads the patches (CaiT, XCiT)",
    paper="Touvron et al., Going Deeper with Image Transformers, ICCV 2021, arXiv:2103.17239",
    source="facebookresearch/deit@7e160fe43f0252d17191b71cbb5826254114ea5b",
    license="Apache-2.0",
    tags=("weights", "self", "heads", "published"),
    parity="Gives all tokens, as XCiT's code does; CaiT's gives the first only.",
)
class ClassAttention(TokenMixer):
    """Attention of the first token to all tokens; the others pass unchanged.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        self._check(x, key_mask)
        q, k, v = self._heads(self.q(x[:, :1])), self._heads(self.k(x)), self._heads(self.v(x))
        mask = None if key_mask is None else key_mask[:, None, None, :]
        dropout_p = self.attn_drop if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        return self._finish(x, y)

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """``(B, h, N, N)``: row 0 is the class token's; a patch, unchanged, has itself alone."""
        self._check(x, key_mask)
        q, k = self._heads(self.q(x[:, :1])), self._heads(self.k(x))
        logits = wide_product(q * self.head_dim**-0.5, k.transpose(-2, -1))  # (B, h, 1, N)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        row = masked_softmax(logits, mask).to(x.dtype)
        tokens = x.shape[1]
        patches = torch.eye(tokens, dtype=x.dtype, device=x.device)[1:]
        patches = patches.expand(x.shape[0], self.num_heads, tokens - 1, tokens)
        return torch.cat([row, patches.to(row.dtype)], 2)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        self._check(x, None)
        return self._finish(x, weights[:, :, :1] @ self._heads(self.v(x)))

    def multiply_adds(self, tokens: int) -> int:
        return 2 * (tokens + 1) * self.dim**2 + 2 * tokens * self.dim

    def _check(self, x: Tensor, key_mask: Tensor | None) -> None:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads).transpose(1, 2)  # (B, h, N, D)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        """The new class token, from its heads ``y`` (B, h, 1, D), before the old patches."""
        y = self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))
        return torch.cat([y, x[:, 1:].to(y.dtype)], 1)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split XCiT's one projection; CaiT's entries already fit."""
        converted = {}
        for key, value in state.items():
            name, _, leaf = key.partition(".")
            if name == "qkv":
                converted |= dict(
                    zip((f"{n}.{leaf}" for n in "qkv"), value.tensor_split(3), strict=True)
                )
            else:
                converted[key] = value
        return converted
