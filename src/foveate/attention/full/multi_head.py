"""Multi-head self-attention: every position attends to every other.

    out = softmax(q k^T / sqrt(D)) v,   [q, k, v] = x W,   heads side by side, then a projection

Two keys and values beside the tokens' may be attended: a learned pair (``add_bias_kv``) and zeros
(``add_zero_attn``), by which a query can attend to nothing. They stand behind the tokens, no mask
hides them, and no position of x is theirs: what a query gives them is missing from the rows of
``weights``.

Shapes: x (B, N, C), heads h of D = C / h channels, e keys beside the tokens'.
Cost: ``4 N C^2 + 2 N (N + e) C`` multiply-adds.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762;
for images Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.
Published code: huggingface/pytorch-image-models (``Attention``), whose layout the weights have;
those of ``torch.nn.MultiheadAttention``, which has both options, load as well. Queries over
another sequence are :mod:`.multi_head_cross`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_key_mask, check_tokens, head_dim, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._softmax import masked_softmax, wide_product
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads, split_heads
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
        add_bias_kv: whether a learned key with its value stands behind the tokens'.
        add_zero_attn: whether a key and value of zeros stand behind all others.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
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
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        self.add_zero_attn = add_zero_attn
        for name in ("bias_k", "bias_v"):
            parameter = nn.Parameter(torch.empty(1, 1, dim)) if add_bias_kv else None
            self.register_parameter(name, parameter)
            if parameter is not None:
                nn.init.xavier_normal_(parameter)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, key_mask)  # (B, h, N, D)
        k, v = self._with_extra(k, self.bias_k), self._with_extra(v, self.bias_v)
        mask = self._mask(key_mask)
        dropout_p = self.attn_drop if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        return self._finish(y)

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(x, key_mask)
        k = self._with_extra(k, self.bias_k)
        logits = wide_product(q * self.head_dim**-0.5, k.transpose(-2, -1))  # (B, h, N, N + e)
        weights = masked_softmax(logits, self._mask(key_mask)).to(x.dtype)
        return weights[..., : x.shape[1]]

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        q, _, v = self._project(x, None)
        y = weights @ v
        if self.bias_k is not None and self.bias_v is not None:  # what is missing from the rows
            share = 1 - weights.sum(-1, keepdim=True)  # (B, h, N, 1)
            if self.add_zero_attn:  # whose logit is zero
                logit = wide_product(q * self.head_dim**-0.5, self._heads(self.bias_k).mT)
                share = share * logit.sigmoid().to(share.dtype)
            y = y + share * self._heads(self.bias_v)
        return self._finish(y)

    def multiply_adds(self, tokens: int) -> int:
        return 4 * tokens * self.dim**2 + 2 * tokens * (tokens + self._extra) * self.dim

    @property
    def _extra(self) -> int:
        """Keys beside the tokens', e."""
        return (self.bias_k is not None) + self.add_zero_attn

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads).transpose(1, 2)  # (B, h, N, D)

    def _with_extra(self, x: Tensor, learned: Tensor | None) -> Tensor:
        """Keys or values ``(B, h, N, D)`` with those beside the tokens' behind them."""
        if not self._extra:
            return x
        shape = (x.shape[0], -1, -1, -1)
        extra = [] if learned is None else [self._heads(learned).to(x.dtype).expand(shape)]
        if self.add_zero_attn:
            extra.append(x.new_zeros(1, x.shape[1], 1, x.shape[3]).expand(shape))
        return torch.cat([x, *extra], 2)

    def _mask(self, key_mask: Tensor | None) -> Tensor | None:
        """``(B, 1, 1, N + e)``."""
        if key_mask is None:
            return None
        return F.pad(key_mask, (0, self._extra), value=True)[:, None, None, :]

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
