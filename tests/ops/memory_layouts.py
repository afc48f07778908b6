"""The ways in which a ``(B, H, W, heads, D)`` of users' lies in memory, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_first": lambda x: x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1, -1),
    "reversed": lambda x: x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
    "crop": lambda x: F.pad(x, (1, 2, 0, 1, 3, 1, 1, 1))[:, 1:-1, 3:-1, :-1, 1:-2],
    "steps": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 4)[:, ::2, ..., ::3],
}
"""Each gives a tensor of the same shape; ``expanded`` repeats the first of two samples."""
