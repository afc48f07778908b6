"""Multi-head attention of queries over another sequence, as between decoder and encoder.

    out = softmax(q k^T / sqrt(D) where the mask allows) v,   q = Q W_q,  k = K W_k,  v = V W_v,
    heads side by side, then a projection

It has two inputs and projects what it gathers, so it is neither a token mixer nor an aligner
(whose context is the memory, weighted): it is no mechanism by name, but a module to build with.

Shapes: queries Q (B, T, C), keys K (B, S, E), values V (B, S, F), out (B, T, C), weights
(B, h, T, S).
Cost: ``2 T C^2 + S C (E + F) + 2 T S C`` multiply-adds.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762.
Published code: ``torch.nn.MultiheadAttention``, whose weights load; its masks are True where
attention may not go, here where it may.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_tokens, head_dim, positive
from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.layout import merge_heads, split_heads


class MultiHeadCrossAttention(nn.Module):
    """Scaled dot-product attention over a memory, with several heads.

    Args:
        dim: channels C of the queries and the output.
        num_heads: heads; must divide ``dim``.
        key_dim: channels E of the keys before their projection; ``dim`` by default.
        value_dim: channels F of the values before theirs; ``key_dim`` by default.
        qkv_bias: whether q, k, v projections have a bias.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        head_dim(dim, num_heads)
        self.dim = dim
        self.num_heads = num_heads
        self.key_dim = dim if key_dim is None else positive(key_dim, "key_dim")
        self.value_dim = self.key_dim if value_dim is None else positive(value_dim, "value_dim")
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(self.key_dim, dim, bias=qkv_bias)
        self.v = nn.Linear(self.value_dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend, and say where.

        Args:
            query: ``(B, T, C)``.
            key: ``(B, S, E)``.
            value: ``(B, S, F)``; the keys by default.
            mask: boolean, broadcastable to ``(B, h, T, S)``; True where attention may go. A mask
                ``(B, S)`` of keys is ``mask[:, None, None]``.

        Returns:
            The output ``(B, T, C)``, and the weights ``(B, h, T, S)``.

        Raises:
            ValueError: if shapes or dtypes do not belong together.
        """
        value = key if value is None else value
        check_tokens(query, self.dim, "query")
        check_tokens(key, self.key_dim, "key")
        check_tokens(value, self.value_dim, "value")
        if mask is not None and mask.dtype is not torch.bool:
            raise ValueError(f"mask must be boolean (True: may be attended), got {mask.dtype}")
        projected = (self.q(query), self.k(key), self.v(value))
        q, k, v = (split_heads(t, self.num_heads).transpose(1, 2) for t in projected)
        y, weights = scaled_dot_product(q, k, v, mask)
        return self.proj(merge_heads(y.transpose(1, 2))), weights

    def multiply_adds(self, queries: int, positions: int) -> int:
        """Multiply-adds of one sample in closed form."""
        projections = 2 * queries * self.dim + positions * (self.key_dim + self.value_dim)
        return self.dim * (projections + 2 * queries * positions)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read ``torch.nn.MultiheadAttention``'s entries, of one width or of several.

        Without biases it has none after the heads either, which a bias of zero stands for.
        """
        state = dict(state)
        for joint, leaf in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
            if joint in state:
                parts = state.pop(joint).chunk(3)
                state |= {f"{t}.{leaf}": part for t, part in zip("qkv", parts, strict=False)}
        if "out_proj.weight" in state and "out_proj.bias" not in state:
            state["out_proj.bias"] = torch.zeros_like(self.proj.bias)
        names = {f"{t}_proj_weight": f"{t}.weight" for t in "qkv"}
        names |= {f"out_proj.{leaf}": f"proj.{leaf}" for leaf in ("weight", "bias")}
        return {names.get(key, key): value for key, value in state.items()}
