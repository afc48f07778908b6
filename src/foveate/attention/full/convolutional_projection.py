"""Attention with convolutional projections: q, k and v come from depthwise convolutions.

    q = W_q BN(dw_q(x)),   k = W_k BN(dw_k(x)),   v = W_v BN(dw_v(x))
    out = softmax(q k^T / sqrt(C)) v,   heads side by side, then a projection

Keys and values are taken with a stride, so there are fewer of them than queries. A class token,
where a model has one, passes the convolutions by.

Shapes: x (B, C, H, W), heads h of D = C / h channels, keys K = ceil(H / s) ceil(W / s), stride s,
convolution kernel k.
Cost: ``(H W + 2 K) C k^2 + 2 (H W + K) C^2 + 2 H W K C`` multiply-adds.

Paper: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021,
arXiv:2103.15808.
Published code: microsoft/CvT@f851e68 ``Attention`` (``method="dw_bn"``). It scales the logits by
``C**-0.5``, all channels and not those of a head; the paper's is ``scale=head_dim**-0.5``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map, check_tokens, head_dim, odd, positive, probability
from foveate.attention._conv_norm import ConvNorm
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.contracts import Mixer
from foveate.layout import map_to_tokens, merge_heads, split_heads, tokens_to_map
from foveate.registry import register


@register(
    "convolutional_projection",
    family="full",
    title="Self-attention whose q, k, v come from depthwise convolutions (CvT)",
    paper="Wu et al., CvT: Introducing Convolutions to Vision Transformers, ICCV 2021, "
    "arXiv:2103.15808",
    source="microsoft/CvT@f851e681966390779b71380d2600b52360ff4fe1",
    license="MIT",
    tags=("heads", "batch_statistics", "published", "fusable"),
    parity="Logits are scaled by dim**-0.5, as the code does; the paper divides by sqrt(head_dim).",
)
class ConvolutionalProjectionAttention(Mixer):
    """Multi-head self-attention with depthwise-convolution projections.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        kernel_size: kernel of the convolutions, odd.
        stride_kv: stride of the convolutions of keys and values.
        scale: factor of the logits; ``dim**-0.5`` by default.
        qkv_bias: whether the linear maps after the convolutions have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        kernel_size: int = 3,
        stride_kv: int = 2,
        *,
        scale: float | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        head_dim(dim, num_heads)
        self.dim = dim
        self.num_heads = num_heads
        self.kernel_size = odd(kernel_size, "kernel_size")
        self.stride_kv = positive(stride_kv, "stride_kv")
        self.scale = dim**-0.5 if scale is None else scale
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.conv_proj_q = _depthwise(dim, kernel_size, 1)
        self.conv_proj_k = _depthwise(dim, kernel_size, stride_kv)
        self.conv_proj_v = _depthwise(dim, kernel_size, stride_kv)
        self.proj_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj_k = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj_v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return tokens_to_map(self._attend(x, None), x.shape[2], x.shape[3], like=x)

    def forward_with_class_token(self, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Attend together with a class token ``(B, 1, C)``, which no convolution touches.

        Returns:
            The new map and the new class token.
        """
        check_map(x, self.dim)
        check_tokens(token, self.dim, "class token")
        y = self._attend(x, token)
        return tokens_to_map(y[:, 1:], x.shape[2], x.shape[3], like=x), y[:, :1]

    def multiply_adds(self, height: int, width: int) -> int:
        queries = height * width
        keys = -(-height // self.stride_kv) * -(-width // self.stride_kv)
        convolutions = (queries + 2 * keys) * self.dim * self.kernel_size**2
        linear = 2 * (queries + keys) * self.dim**2
        return convolutions + linear + 2 * queries * keys * self.dim

    def fuse(self) -> None:
        """Fold the batch normalisations into the convolutions, in place."""
        for projection in (self.conv_proj_q, self.conv_proj_k, self.conv_proj_v):
            projection.fuse()

    def _attend(self, x: Tensor, token: Tensor | None) -> Tensor:
        q = self._heads(self.proj_q, self.conv_proj_q(x), token)  # (B, h, H*W, D)
        k = self._heads(self.proj_k, self.conv_proj_k(x), token)  # (B, h, K, D)
        v = self._heads(self.proj_v, self.conv_proj_v(x), token)
        dropout_p = self.attn_drop if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=self.scale)
        return self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))

    def _heads(self, linear: nn.Linear, x: Tensor, token: Tensor | None) -> Tensor:
        tokens = map_to_tokens(x)
        if token is not None:
            tokens = torch.cat([token.to(tokens.dtype), tokens], 1)
        return split_heads(linear(tokens), self.num_heads).transpose(1, 2)


def _depthwise(dim: int, kernel_size: int, stride: int) -> ConvNorm:
    return ConvNorm(dim, dim, kernel_size, stride=stride, groups=dim)
