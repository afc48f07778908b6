"""Attention to one's own block of tokens and the ones beside it, with rotary positions.

Shapes: q, k, v (B, h, N, D), n blocks of w tokens, J keys that a block sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import positive, probability
from foveate.attention._dropout import scaled_dot_product_attention


class RotaryBlockAttention(nn.Module):
    """The local heads of routing attention: lucidrains/local-attention 1.11.2, ``LocalAttention``.

    Keys turn by their place among those that the block sees. Queries turn as the last of these
    do: their own places if causal, one block further if not, as published.

    Args:
        window_size: tokens w of a block.
        head_dim: channels D of a head, even.
        causal: whether tokens see themselves and earlier ones only; then no block ahead.
        attn_drop: dropout of the attention weights.
    """

    def __init__(
        self, window_size: int, head_dim: int, *, causal: bool = False, attn_drop: float = 0.0
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even number of channels, got {head_dim}")
        self.window_size = positive(window_size, "window_size")
        self.causal = causal
        self.blocks = 2 if causal else 3  # that a block sees
        self.attn_drop = probability(attn_drop, "attn_drop")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        size, device = self.window_size, q.device
        heads, tokens = q.shape[1:3]
        blocks = (tokens + size - 1) // size
        starts = size * torch.arange(blocks, device=device)
        queries = starts[:, None] + torch.arange(size, device=device)  # (n, w)
        keys = starts[:, None] + torch.arange(-size, (self.blocks - 1) * size, device=device)
        seen = ((keys >= 0) & (keys < tokens))[:, None]  # (n, 1, J)
        if self.causal:
            seen = seen & (queries[:, :, None] >= keys[:, None])
        queries, keys = queries.clamp(max=tokens - 1), keys.clamp(0, tokens - 1)
        mask = seen
        if key_mask is not None:
            mask = (seen & key_mask[:, keys][:, :, None]).repeat_interleave(heads, 0)
        turns = 10000.0 ** (-torch.arange(0, q.shape[3], 2, device=device) / q.shape[3])
        angles = torch.arange(keys.shape[1], device=device)[:, None] * turns  # (J, D / 2)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # (B*h, N, D)
        y = scaled_dot_product_attention(
            _turn(q[:, queries], angles[-size:]),  # (B*h, n, w, D)
            _turn(k[:, keys], angles),
            v[:, keys],
            attn_mask=mask,
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        # A slice of a symbolic length would tie an export to lengths that need, or don't, padding.
        y = y.flatten(1, 2).index_select(1, torch.arange(tokens, device=device))
        return y.unflatten(0, (-1, heads))

    def multiply_adds(self, tokens: int, channels: int) -> int:
        """Of all heads together, which have ``channels``."""
        padded = -(-tokens // self.window_size) * self.window_size
        return 2 * padded * self.blocks * self.window_size * channels


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the two halves of the channels of ``(..., T, D)`` by ``(T, D / 2)``."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
