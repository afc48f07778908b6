"""Softmax over keys of which some, or all, are masked."""

from __future__ import annotations

import torch
from torch import Tensor


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
