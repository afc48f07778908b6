"""Sparse attention: each position attends to about the root of all others, in two steps to any.

    local     k in (q - l, q]
    strided   k <= q,  (q - k) mod l = 0
    fixed     k <= q,  in q's own block of l positions or among the summaries of an earlier one:
              v of the l / b sub-blocks of b positions, counted from the block's end

Heads take the patterns in turn: local and strided together are the paper's *strided* attention,
for data with a grid of width l; *fixed* suits text. Only the keys that a pattern names are visited.

Shapes: x (B, N, C), heads h of D = C / h channels, stride l, n = ceil(N / l).
Cost: ``4 N C^2`` and, for each head, ``2 D`` multiply-adds for each pair visited: ``2 n l^2``
(local), ``l n^2`` (strided), ``n l (l + n v b)`` (fixed).

Paper: Child et al., "Generating Long Sequences with Sparse Transformers", arXiv:1904.10509.
Published code: openai/sparse_attention@c53f3bd (functions of q, k, v; no license file), with the
block-granular fixed pattern of openai/blocksparse. With ``block_size=1`` it is the paper's, whose c
is ``vert_size``. ``causal=False``, for images, drops ``k <= q`` and looks both ways; it is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveate.arguments import check_key_mask, check_tokens, head_dim, one_of, positive, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._softmax import masked_softmax, wide_product
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads, split_heads
from foveate.registry import register

PATTERNS = ("local", "strided", "fixed", "all")


@register(
    "sparse",
    family="sequence",
    title="Sparse attention with strided or fixed patterns (Sparse Transformer)",
    paper="Child et al., Generating Long Sequences with Sparse Transformers, arXiv:1904.10509",
    source="openai/sparse_attention@c53f3bdbf6225be0582f0357072e82b13c69be7d",
    tags=("weights", "self", "heads"),
    parity="Masks and outputs of the published functions; the projections around them are ours.",
)
class SparseAttention(TokenMixer):
    """Self-attention to the positions that a pattern names.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        pattern: "local", "strided", "fixed" or "all", or several that heads take in turn.
        stride: l: width of the band, distance of the strided keys, length of a fixed block.
        block_size: b, positions of a sub-block ("fixed").
        num_verts: how many choices of summaries the heads take in turn ("fixed").
        vert_size: v, sub-blocks of a choice ("fixed").
        causal: whether positions see only themselves and earlier ones.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        pattern: str | tuple[str, ...] = ("local", "strided"),
        stride: int = 16,
        *,
        block_size: int = 1,
        num_verts: int = 1,
        vert_size: int = 1,
        causal: bool = True,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        self.patterns = [one_of(name, PATTERNS, "pattern") for name in patterns]
        self.stride = positive(stride, "stride")
        self.block_size = positive(block_size, "block_size")
        self.num_verts = positive(num_verts, "num_verts")
        self.vert_size = positive(vert_size, "vert_size")
        if "fixed" in patterns:
            self._check_fixed()
        self.causal = causal
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def _check_fixed(self) -> None:
        sub_blocks = self.stride // self.block_size
        if self.stride % self.block_size or sub_blocks % self.vert_size:
            raise ValueError(
                f"stride={self.stride} must be a multiple of block_size * vert_size = "
                f"{self.block_size} * {self.vert_size}"
            )
        if self.num_verts * self.vert_size > sub_blocks:
            raise ValueError(
                f"num_verts * vert_size = {self.num_verts} * {self.vert_size} sub-blocks do not "
                f"fit in stride / block_size = {sub_blocks}"
            )

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        self._check(x, key_mask)
        return self._finish(self.attend(*self.qkv(x).chunk(3, -1), key_mask))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The published function: attention of ``(B, N, C)`` each, without projections."""
        parts, order = [], []
        for pattern, heads in self._groups().items():
            chosen = (split_heads(t, self.num_heads)[:, :, heads] for t in (q, k, v))
            parts.append(self._attend(*chosen, self._plan(*pattern, q), key_mask))
            order += heads
        back = torch.tensor(order, device=q.device).argsort()
        return merge_heads(torch.cat(parts, 2).index_select(2, back))

    def mask(self, tokens: int, device: torch.device | None = None) -> Tensor:
        """``(h, N, N)``: whether each head's query (row) may attend to each key."""
        place = torch.arange(tokens, device=device)
        masks = {
            head: self._allowed(*pattern, place[:, None], place)
            for pattern, heads in self._groups().items()
            for head in heads
        }
        return torch.stack([masks[head] for head in range(self.num_heads)])

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        self._check(x, key_mask)
        q, k, _ = (split_heads(t, self.num_heads).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mask = self.mask(x.shape[1], x.device)
        if key_mask is not None:
            mask = mask & key_mask[:, None, None]
        logits = wide_product(q * self.head_dim**-0.5, k.mT)  # (B, h, N, N)
        return masked_softmax(logits, mask).to(x.dtype)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        self._check(x, None)
        v = split_heads(self.qkv(x)[..., 2 * self.dim :], self.num_heads)  # (B, N, h, D)
        return self._finish(merge_heads((weights @ v.transpose(1, 2)).transpose(1, 2)))

    def multiply_adds(self, tokens: int) -> int:
        blocks = -(-tokens // self.stride)
        around = 2 if self.causal else 3
        summaries = blocks * self.vert_size * self.block_size
        pairs = {
            "local": blocks * self.stride * around * self.stride,
            "strided": self.stride * blocks**2,
            "fixed": blocks * self.stride * (self.stride + summaries),
            "all": tokens**2,
        }
        visited = sum(len(heads) * pairs[name] for (name, _), heads in self._groups().items())
        return 4 * tokens * self.dim**2 + 2 * visited * self.head_dim

    def _check(self, x: Tensor, key_mask: Tensor | None) -> None:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])

    def _finish(self, y: Tensor) -> Tensor:
        return self.proj_drop(self.proj(y))

    def _groups(self) -> dict[tuple[str, int], list[int]]:
        """Heads by pattern and choice of summaries."""
        groups: dict[tuple[str, int], list[int]] = {}
        for head in range(self.num_heads):
            name = self.patterns[head % len(self.patterns)]
            choice = head % self.num_verts if name == "fixed" else 0
            groups.setdefault((name, choice), []).append(head)
        return groups

    def _allowed(self, pattern: str, choice: int, query: Tensor, key: Tensor) -> Tensor:
        apart = query - key
        allowed = apart >= 0 if self.causal else apart == apart
        if pattern == "local":
            return allowed & (apart.abs() < self.stride)
        if pattern == "strided":
            return allowed & (apart % self.stride == 0)
        if pattern == "fixed":
            from_end = (self.stride - 1 - key % self.stride) // self.block_size
            summary = from_end // self.vert_size == choice
            return allowed & (summary | (query // self.stride == key // self.stride))
        return allowed

    def _plan(self, pattern: str, choice: int, x: Tensor) -> _Plan:
        """Groups of queries that share their keys, to compute ``pattern`` on ``x`` (B, N, C)."""
        tokens, stride = x.shape[1], self.stride
        blocks = (tokens + stride - 1) // stride
        every = torch.arange(tokens, device=x.device)
        within = torch.arange(stride, device=x.device)
        starts = stride * torch.arange(blocks, device=x.device)
        queries, order = starts[:, None] + within, every  # a block of neighbours each
        if pattern == "local":
            reach = torch.arange(-stride, (1 if self.causal else 2) * stride, device=x.device)
            keys = starts[:, None] + reach
        elif pattern == "strided":
            queries = keys = within[:, None] + starts
            order = every % stride * blocks + every // stride
        elif pattern == "fixed":
            size = self.vert_size * self.block_size
            last = stride - choice * size  # of this choice's cells in each block
            cells = (starts[:, None] + torch.arange(last - size, last, device=x.device)).flatten()
            keys = torch.cat([queries, cells.expand(blocks, -1)], 1)
        else:
            queries = keys = every[None]
        allowed = self._allowed(pattern, choice, queries[:, :, None], keys[:, None])
        allowed = allowed & ((keys >= 0) & (keys < tokens))[:, None]
        if pattern == "fixed":  # the own block's summaries are among its cells already
            twice = (keys // stride == starts[:, None] // stride) & (
                torch.arange(keys.shape[1], device=x.device) >= stride
            )
            allowed = allowed & ~twice[:, None]
        last = tokens - 1
        return _Plan(queries.clamp(max=last), keys.clamp(0, last), allowed, order)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, plan: _Plan, key_mask: Tensor | None
    ) -> Tensor:
        heads = q.shape[2]
        q = _gather(q, plan.queries)  # (B*h, G, queries, D)
        k, v = _gather(k, plan.keys), _gather(v, plan.keys)
        mask = plan.allowed
        if key_mask is not None:
            seen = key_mask[:, plan.keys][:, None, :, None]  # (B, 1, G, 1, keys)
            mask = (mask & seen).expand(-1, heads, -1, -1, -1).flatten(0, 1)
        dropout_p = self.attn_drop if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        y = y.flatten(1, 2).index_select(1, plan.order)  # (B*h, N, D)
        return y.unflatten(0, (-1, heads)).transpose(1, 2)


class _Plan(NamedTuple):
    """G groups, each with its queries and the keys they share."""

    queries: Tensor  # (G, queries) positions
    keys: Tensor  # (G, keys) positions
    allowed: Tensor  # (G, queries, keys)
    order: Tensor  # (N,) index of each position among the G * queries


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """``(B, N, h, D) -> (B*h, G, places, D)``."""
    return x[:, places].permute(0, 3, 1, 2, 4).flatten(0, 1)
