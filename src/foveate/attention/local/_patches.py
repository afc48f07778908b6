"""The k x k neighbours of every position, and sums over them with weights of any kind.

Shapes: x (B, C, H, W), N = H * W positions, T = k * k taps row by row, m weight channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import odd, positive


def neighbours(x: Tensor, kernel_size: int, dilation: int = 1) -> Tensor:
    """``(B, C, H, W) -> (B, C, T, N)``; beyond the border the map is reflected.

    On a map too small to reflect that far, the nearest position is taken instead.
    """
    rows = _reflected(x.shape[2], kernel_size, dilation, x.device)
    columns = _reflected(x.shape[3], kernel_size, dilation, x.device)
    x = x.index_select(2, rows).index_select(3, columns)
    reach = dilation * (kernel_size - 1) + 1
    x = x.unfold(2, reach, 1).unfold(3, reach, 1)[..., ::dilation, ::dilation]
    return x.flatten(4).flatten(2, 3).transpose(2, 3)


def aggregate(values: Tensor, weights: Tensor, kernel_size: int, dilation: int = 1) -> Tensor:
    """Sum of each position's neighbours: ``(B, C, H, W), (B, m, T, N) -> (B, C, H, W)``.

    Channel c takes the weights of channel ``c % m``.
    """
    taps = neighbours(values, kernel_size, dilation).unflatten(1, (-1, weights.shape[1]))
    return torch.einsum("bsmtn,bmtn->bsmn", taps, weights).reshape(values.shape)


def dense(weights: Tensor, size: tuple[int, int], kernel_size: int, dilation: int = 1) -> Tensor:
    """Weights of taps ``(B, m, T, N)`` as weights of positions ``(B, m, N, N)``."""
    positions = torch.arange(size[0] * size[1], device=weights.device).view(1, 1, *size)
    keys = neighbours(positions, kernel_size, dilation).mT.expand(*weights.shape[:2], -1, -1)
    square = weights.new_zeros(*weights.shape[:2], keys.shape[2], keys.shape[2])
    return square.scatter_add(-1, keys, weights.mT)


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


def _reflected(length: int, kernel_size: int, dilation: int, device: torch.device) -> Tensor:
    pad = dilation * (kernel_size - 1) // 2
    place = (torch.arange(length + 2 * pad, device=device) - pad).abs()
    last = length - 1
    return (last - (last - place).abs()).clamp(0, last)
