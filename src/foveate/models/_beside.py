"""One tensor of a map and a token: the token's channels beside each cell of the map.

Networks of two branches classify both; pooled, this is the pooled map and the token side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor


def beside_every_cell(x: Tensor, token: Tensor) -> Tensor:
    """``(B, C, h, w)`` and ``(B, E)`` as ``(B, C + E, h, w)``."""
    return torch.cat([x, token[..., None, None].expand(-1, -1, x.shape[2], x.shape[3])], 1)


def apart(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The map of so many ``channels``, and the token: what :func:`beside_every_cell` joined."""
    return x[:, :channels], x[:, channels:, 0, 0]
