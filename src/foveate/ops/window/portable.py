"""Attention inside parts in plain PyTorch: what it means, on any device, differentiable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate import layout
from foveate.ops import _dropout
from foveate.ops.window.parts import Parts


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: list[int],
    shift: list[int],
    spread: bool,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """Output ``(B, H, W, h, Dv)`` of checked arguments."""
    batch, height, width, heads, _ = q.shape
    parts = Parts((height, width), (part[0], part[1]), (shift[0], shift[1]), spread)

    def heads_of_parts(x: Tensor) -> Tensor:
        x = parts.split(layout.merge_heads(x))  # (B, n, T, h*D)
        return layout.split_heads(x.flatten(0, 1), heads).transpose(1, 2)  # (B*n, h, T, D)

    mask = None if bias is None else bias[None].to(q.dtype)  # (1, h, T, T)
    together = parts.together(q.device)
    if together is not None:
        seen = together.repeat(batch, 1, 1)[:, None]  # (B*n, 1, T, T)
        mask = seen if mask is None else mask.masked_fill(~seen, float("-inf"))
    queries, keys, values = (heads_of_parts(x) for x in (q, k, v))
    if dropout_p:
        kept = _kept(q, parts, heads_of_parts, dropout_p, seed)
        y = _dropped(queries, keys, values, mask, scale, kept, dropout_p)
    else:
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    y = layout.merge_heads(y.transpose(1, 2)).unflatten(0, (-1, parts.count))  # (B, n, T, h*Dv)
    return layout.split_heads(parts.merge(y), heads)


def _kept(
    q: Tensor,
    parts: Parts,
    heads_of_parts: Callable[[Tensor], Tensor],
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """``(B*n, h, T, T)``: which weights stay, by the query's number in q and the key's place."""
    numbers = torch.arange(q[..., 0].numel(), device=q.device).view(q.shape[:4])
    numbers = heads_of_parts(numbers[..., None])  # (B*n, h, T, 1)
    places = torch.arange(numbers.shape[2], device=q.device)
    return _dropout.kept(seed, numbers, places, dropout_p)


def _dropped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    kept: Tensor,
    dropout_p: float,
) -> Tensor:
    """What SDPA computes, with the weights that are kept said from outside."""
    logits = (q * scale) @ k.mT
    if mask is not None and mask.dtype is torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask
    precise = torch.promote_types(q.dtype, torch.float32)
    some = (logits != float("-inf")).any(-1, keepdim=True)
    weights = logits.where(some, 0).softmax(-1, dtype=precise)
    weights = weights.where(kept & some, 0) * (1 / (1 - dropout_p))
    return weights.to(v.dtype) @ v
