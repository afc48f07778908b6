"""What the forms of vector attention on windows share.

Shapes: maps (B, C, H, W), N = H * W positions, T = k * k taps row by row, m weight channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import odd, positive
from foveate.layout import to_channels_first, to_channels_last
from foveate.ops import local_aggregate
from foveate.ops._taps import neighbours


def summed(
    values: Tensor,
    weights: Tensor,
    kernel_size: int,
    dilation: int,
    *,
    normalize: bool = False,
    like: Tensor,
) -> Tensor:
    """Each position's neighbours, weighted: ``(B, C, H, W), (B, H, W, T, m) -> (B, C, H, W)``.

    Channel c takes the weights of channel ``c % m``; with ``normalize`` they are logits. Beyond the
    border the map is reflected. The memory format is that of the map ``like``.
    """
    channels = to_channels_last(values).unflatten(-1, (-1, weights.shape[-1]))
    y = local_aggregate(
        channels, weights, kernel_size, dilation, border="reflect", normalize=normalize
    )
    return to_channels_first(y.flatten(3), like=like)


def dense(weights: Tensor, kernel_size: int, dilation: int = 1) -> Tensor:
    """Weights of taps ``(B, H, W, T, m)`` as weights of positions ``(B, m, N, N)``."""
    height, width = weights.shape[1:3]
    positions = torch.arange(height * width, device=weights.device).view(1, height, width, 1)
    keys = neighbours(positions, (kernel_size,) * 2, (dilation,) * 2, "reflect").flatten(0, 3)
    weights = weights.flatten(1, 2).permute(0, 3, 1, 2)  # (B, m, N, T)
    square = weights.new_zeros(*weights.shape[:3], keys.shape[0])
    return square.scatter_add(-1, keys.expand_as(weights), weights)


def coordinates(x: Tensor) -> Tensor:
    """Coordinates of each position of the map ``x``, from -1 to 1: ``(2, H, W)``, x before y."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # half has too few numbers to count in
    axes = []
    for length in (x.shape[3], x.shape[2]):
        places = torch.arange(length, dtype=dtype, device=x.device)
        axes.append(places * 2 / torch.sym_max(length - 1, 1) - 1)
    return torch.stack(torch.meshgrid(*axes, indexing="xy")).to(x.dtype)


def check_san_options(
    dim: int,
    kernel_size: int,
    dim_out: int | None,
    rel_dim: int | None,
    share: int,
    dilation: int,
) -> tuple[int, int]:
    """Channels that come out and of the relation, after the checks that both kinds of SAN need.

    Raises:
        ValueError: if an option does not fit.
    """
    positive(dim, "dim")
    positive(dilation, "dilation")
    odd(kernel_size, "kernel_size")
    name, width = ("dim", dim) if dim_out is None else ("dim_out", positive(dim_out, "dim_out"))
    if width % positive(share, "share"):
        raise ValueError(f"share={share} must divide {name}={width}")
    rel_dim = max(1, dim // 4) if rel_dim is None else positive(rel_dim, "rel_dim")
    return width, rel_dim
