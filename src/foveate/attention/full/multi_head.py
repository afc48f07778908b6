"""Multi-head self-attention: every position attends to every other.

    out = softmax(q k^T / sqrt(D)) v,   [q, k, v] = x W,   heads side by side, then a projection

Shapes: x (B, N, C), heads h of D = C / h channels.
Cost: ``4 N C^2 + 2 N^2 C`` multiply-adds.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762;
for images Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.
Published code: huggingface/pytorch-image-models (``Attention``), whose layout the weights have;
those of ``torch.nn.MultiheadAttention`` load as well. Queries over another sequence are
:mod:`.multi_head_cross`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_key_mask, check_tokens, head_dim, probability
from foveate.attention._softmax import masked_softmax, wide_product
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads
from foveate.registry import register


@register(
    "multi_head",
    family="full",
    title="Multi-head self-attention over all positions (Transformer, ViT, DeiT)",
    paper="Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762",
    source="huggingface/pytorch-image-models@1.0.31",
    license="Apache-2.0",
    tags=("weights", "self", "unordered", "heads", "published"),
)
class MultiHeadAttention(TokenMixer):
    """Scaled dot-product self-attention with several heads.

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
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, key_mask)  # (B, h, N, D)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        dropout_p = self.attn_drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        return self._finish(y)

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(x, key_mask)
        logits = wide_product(q * self.head_dim**-0.5, k.transpose(-2, -1))  # (B, h, N, N)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        return masked_softmax(logits, mask).to(x.dtype)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._finish(weights @ self._project(x, None)[2])

    def multiply_adds(self, tokens: int) -> int:
        return 4 * tokens * self.dim**2 + 2 * tokens**2 * self.dim

    def _project(self, x: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # (B, N, 3, h, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _finish(self, y: Tensor) -> Tensor:
        return self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read ``torch.nn.MultiheadAttention``'s entries too; timm's already fit.

        Without biases it has none after the heads either, which a bias of zero stands for.
        """
        names = {
            "in_proj_weight": "qkv.weight",
            "in_proj_bias": "qkv.bias",
            "out_proj.weight": "proj.weight",
            "out_proj.bias": "proj.bias",
        }
        if "out_proj.weight" in state and "out_proj.bias" not in state:
            state = {**state, "out_proj.bias": torch.zeros_like(self.proj.bias)}
        return {names.get(key, key): value for key, value in state.items()}
