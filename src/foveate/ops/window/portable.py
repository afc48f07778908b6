"""Window attention in plain PyTorch, the fast portable form: on any device, differentiable.

Equals ``reference.py``. Windows are cut out of the padded map and go through
``F.scaled_dot_product_attention``, with a softmax written out where weights are dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate import layout
from foveate.ops import _dropout
from foveate.ops.window._arguments import Arguments
from foveate.ops.window.windows import Windows


def window_attention(a: Arguments) -> Tensor:
    """Output ``(B, H, W, h, Dv)`` of checked arguments."""
    batch, height, width, heads, _ = a.q.shape
    (rows, columns), (down, across) = a.window_size, a.shift_size
    windows = Windows((height, width), (rows, columns), (down, across), a.spread)

    def heads_of_windows(x: Tensor) -> Tensor:
        x = windows.split(layout.merge_heads(x))  # (B, n, T, h*D)
        return layout.split_heads(x.flatten(0, 1), heads).transpose(1, 2)  # (B*n, h, T, D)

    mask = None if a.bias is None else a.bias[None].to(a.q.dtype)  # (1, h, T, T)
    together = windows.together(a.q.device)
    if together is not None:
        seen = together.repeat(batch, 1, 1)[:, None]  # (B*n, 1, T, T)
        mask = seen if mask is None else mask.masked_fill(~seen, float("-inf"))
    queries, keys, values = (heads_of_windows(x) for x in (a.q, a.k, a.v))
    if a.dropout_p:
        kept = _kept(a, heads_of_windows)
        y = _dropped(queries, keys, values, mask, a.scale, kept, a.dropout_p)
    else:
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=a.scale)
    y = layout.merge_heads(y.transpose(1, 2)).unflatten(0, (-1, windows.count))  # (B, n, T, h*Dv)
    return layout.split_heads(windows.merge(y), heads)


def _kept(a: Arguments, heads_of_windows: Callable[[Tensor], Tensor]) -> Tensor:
    """``(B*n, h, T, T)``: which weights stay, by the query's number in q and the key's place."""
    numbers = torch.arange(a.q[..., 0].numel(), device=a.q.device).view(a.q.shape[:4])
    numbers = heads_of_windows(numbers[..., None])  # (B*n, h, T, 1)
    places = torch.arange(numbers.shape[2], device=a.q.device)
    return _dropout.kept(a.seed, numbers, places, a.dropout_p)


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
