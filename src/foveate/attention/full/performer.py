"""Performer attention: softmax attention by random features, linear in the number of tokens.

    out = phi(q) (phi(k)^T v) / (phi(q) sum_n phi(k_n)),   phi(x) = exp(W x - |x|^2 / 2)

whose dot products phi(q) . phi(k) are, in the mean over random W, exp(q . k): the weights of
softmax attention, of which no N x N map is ever made. The rows of W are orthogonal (FAVOR+) and as
long as normally distributed ones, drawn once and kept with the weights.

Shapes: x (B, N, C), heads h of D = C / h channels, m features; W (m, D), the same for all heads.
Cost: ``4 N C^2 + 4 N C m + N C m / D`` multiply-adds, linear in N.

Paper: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794.
Published code: the token module of T2T-ViT (Yuan et al., ICCV 2021, arXiv:2101.11986),
:class:`TokenPerformer`, in blackfeather-wang/Dynamic-Vision-Transformer@22cc895. It adds 1e-8 to
denominators, which are smaller where queries or keys are long; the mechanism needs no such thing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import (
    check_key_mask,
    check_tokens,
    head_dim,
    positive,
    probability,
    query_scale,
)
from foveate.attention._dropout import Dropout
from foveate.attention._softmax import wide_product
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads, split_heads
from foveate.registry import register


def random_features(
    q: Tensor, k: Tensor, projection: Tensor, key_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``phi(q)`` and ``phi(k)`` ``(..., N, m)``, in float32 at least, but for factors that cancel.

    The largest of each feature among keys is moved to the queries, and the largest of each query
    taken out: so one key of one feature counts one to every query, whatever their lengths.

    Args:
        q: ``(..., N, D)``.
        k: ``(..., N, D)``.
        projection: W ``(m, D)``.
        key_mask: boolean, broadcastable to ``(..., N, m)``; features of the other keys are zero.
    """
    of_queries, of_keys = _logits(q, projection), _logits(k, projection)
    if key_mask is not None:
        of_keys = of_keys.masked_fill(~key_mask, torch.finfo(of_keys.dtype).min / 2)
    largest = of_keys.detach().amax(-2, keepdim=True)
    of_queries = of_queries + largest
    phi_q = (of_queries - of_queries.detach().amax(-1, keepdim=True)).exp()
    phi_k = (of_keys - largest).exp()
    return phi_q, phi_k if key_mask is None else phi_k.masked_fill(~key_mask, 0.0)


def _logits(x: Tensor, projection: Tensor) -> Tensor:
    """``W x - |x|^2 / 2``."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide_product(wide, projection.mT) - 0.5 * wide.square().sum(-1, keepdim=True)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 0.0) -> Tensor:
    """``q (k^T v)`` by ``q sum_n k_n + eps``, for features ``(..., N, m)``; zero without keys."""
    y = wide_product(q, wide_product(k.mT, v))
    return (y / _nonzero(wide_product(q, k.sum(-2).unsqueeze(-1)) + eps)).to(v.dtype)


def _nonzero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1.0)


def orthogonal_rows(rows: int, columns: int) -> Tensor:
    """``(rows, columns)``: rows of length one, random, orthogonal in groups of ``columns``."""
    groups = [nn.init.orthogonal_(torch.empty(columns, columns)) for _ in range(0, rows, columns)]
    return torch.cat(groups)[:rows]


@register(
    "performer",
    family="full",
    title="Softmax attention by random features, linear in tokens (Performer)",
    paper="Choromanski et al., Rethinking Attention with Performers, ICLR 2021, arXiv:2009.14794",
    source="blackfeather-wang/Dynamic-Vision-Transformer@22cc8951af0db59acdd414ba35dd87d6d793c868",
    tags=("weights", "heads", "unordered"),
    parity="T2T-ViT's token module (one head, no scale), exactly",
)
class PerformerAttention(TokenMixer):
    """Attention by positive orthogonal random features.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        num_features: features m of each head; D by default. More come closer to softmax attention.
        qk_scale: factor of ``q . k``; ``D ** -0.5`` by default.
        qkv_bias: whether q, k, v projections have a bias.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        num_features: int | None = None,
        qk_scale: float | None = None,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.num_features = positive(
            self.head_dim if num_features is None else num_features, "num_features"
        )
        self.scale = query_scale(self.head_dim, qk_scale)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        lengths = torch.randn(self.num_features, self.head_dim).norm(dim=1, keepdim=True)
        self.w = nn.Buffer(lengths * orthogonal_rows(self.num_features, self.head_dim))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self._finish(linear_attention(*self._project(x, key_mask)))

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(x, key_mask)
        weights = wide_product(q, k.mT)  # (B, h, N, N)
        return (weights / _nonzero(weights.sum(-1, keepdim=True))).to(x.dtype)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._finish(weights @ self._project(x, None)[2])

    def multiply_adds(self, tokens: int) -> int:
        features = self.num_heads * self.num_features
        return 4 * tokens * self.dim * (self.dim + self.num_features) + tokens * features

    def _project(self, x: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features of queries and of keys ``(B, h, N, m)``; values ``(B, h, N, D)``."""
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        q, k, v = (split_heads(t, self.num_heads).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mask = None if key_mask is None else key_mask[:, None, :, None]
        root = self.scale**0.5
        return *random_features(q * root, k * root, self.w, mask), v

    def _finish(self, y: Tensor) -> Tensor:
        return self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))


class TokenPerformer(nn.Module):
    """T2T-ViT's token module: tokens of a few overlapping patches attend, and become narrower.

        v' = v + performer(q, k, v) W,   out = v' + MLP(LN(v')),   [k, q, v] = LN(x) W'

    ``(B, N, dim) -> (B, N, width)``, with one head and without a scale. Checkpoints were trained
    with 1e-8 added to denominators, by which long tokens attend to nothing; so it is added here.

    Args:
        dim: channels of the given tokens.
        width: channels of those that come out.
        kernel_ratio: features m as a share of ``width``.
        drop: dropout behind the MLP and the attention's projection.

    Raises:
        ValueError: where ``kernel_ratio`` leaves no feature.
    """

    def __init__(self, dim: int, width: int, kernel_ratio: float = 0.5, drop: float = 0.0) -> None:
        super().__init__()
        self.dim, self.width = positive(dim, "dim"), positive(width, "width")
        count = int(self.width * kernel_ratio)
        if count < 1:
            raise ValueError(f"kernel_ratio={kernel_ratio} of {width} channels leaves no feature")
        self.w = nn.Buffer(count**0.5 * orthogonal_rows(count, self.width))
        self.kqv = nn.Linear(dim, 3 * width)
        self.proj = nn.Linear(width, width)
        self.drop = Dropout(probability(drop, "drop"))
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), Dropout(drop)
        )

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(x, self.dim)
        k, q, v = self.kqv(self.norm1(x)).chunk(3, -1)
        q, k = (_logits(t, self.w).exp() * len(self.w) ** -0.5 for t in (q, k))
        x = v + self.drop(self.proj(linear_attention(q, k, v, eps=1e-8)))
        return x + self.mlp(self.norm2(x))
