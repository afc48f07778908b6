"""What operators ask of their maps."""

from __future__ import annotations

import torch
from torch import Tensor


def check_maps(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse anything but floating q, k ``(B, H, W, heads, D)`` and v ``(B, H, W, heads, Dv)``.

    Raises:
        TypeError: if one is no tensor.
        ValueError: if ranks, shapes or dtypes are wrong.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if x.dim() != 5:
            raise ValueError(f"{name} must be (B, H, W, heads, D), got shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must have a floating dtype, got {x.dtype}")
    if k.shape != q.shape:
        raise ValueError(
            f"q and k must have the same shape (B, H, W, heads, D), "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if v.shape[:4] != q.shape[:4]:
        raise ValueError(
            f"q and v must agree in (B, H, W, heads), got {tuple(q.shape)} and {tuple(v.shape)}"
        )
    if 0 in q.shape[1:] or v.shape[4] == 0:
        raise ValueError(
            "H, W, heads and channels must be at least 1, "
            f"got q {tuple(q.shape)} and v {tuple(v.shape)}"
        )


def check_map(x: Tensor, name: str = "x") -> None:
    """Refuse anything but a floating map ``(B, C, H, W)`` with all axes but B at least 1 long.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if its rank, size or dtype is wrong.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{name} must be (B, C, H, W), and C, H, W at least 1, got shape {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} must have a floating dtype, got {x.dtype}")


def check_together(q: Tensor, k: Tensor, v: Tensor, **others: Tensor | None) -> None:
    """Refuse maps of several dtypes, and anything on another device than q.

    Raises:
        TypeError: if one of the others is neither a tensor nor None.
        ValueError: if dtypes or devices disagree.
    """
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v must share one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    for name, x in {"k": k, "v": v, **others}.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device}, q on {q.device}; move them together")


def autocast(*maps: Tensor) -> tuple[Tensor, ...]:
    """Maps in the dtype that autocast wants of a matrix product; float64 is left alone."""
    device = maps[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return maps
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype is torch.float64 else x.to(dtype) for x in maps)
