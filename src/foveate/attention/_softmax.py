"""Logits that stay in range, and a softmax over keys of which some, or all, are masked."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in float32 at least, under autocast too.

    Logits are sums of products: float16 ends at 65504, where queries and keys of a few hundred
    are far in its range.
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b, device = a.to(dtype), b.to(dtype), a.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return a @ b
    return a @ b


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis, which ignores what ``mask`` forbids.

    A row in which everything is forbidden gets zeros, and passes no gradient on.

    Args:
        scores: any floating tensor.
        mask: boolean, broadcastable to ``scores``; True where weight may go.
    """
    if mask is None:
        return scores.softmax(-1)
    lowest = torch.finfo(scores.dtype).min  # -inf would make rows without any key NaN
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0.0)
