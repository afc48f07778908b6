"""Checks of arguments: each error states what was given and what would be right."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor


def pair(
    value: int | tuple[int, int] | list[int], name: str, *, at_least: int = 1
) -> tuple[int, int]:
    """``value`` as ``(height, width)``; an int stands for both.

    Raises:
        ValueError: if it is not one or two integers of at least ``at_least``.
    """
    if type(value) is int and value >= at_least:  # mostly; the rest takes longer to look through
        return value, value
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in both):
        raise ValueError(f"{name} must be an integer or a pair of integers, got {value!r}")
    if min(both) < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    return both


def positive(value: int, name: str) -> int:
    """``value`` if it is an integer of at least one.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def flag(value: bool, name: str) -> bool:
    """``value`` if it is True or False: any word counts as true, ``"no"`` as well.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def odd(value: int, name: str) -> int:
    """``value`` if it is an odd integer of at least one.

    Raises:
        ValueError: if it is not.
    """
    if positive(value, name) % 2 == 0:
        raise ValueError(f"{name} must be odd, got {value}")
    return value


def probability(value: float, name: str) -> float:
    """``value`` if it is in [0, 1).

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


def head_dim(dim: int, num_heads: int) -> int:
    """Channels of one head.

    Raises:
        ValueError: if ``dim`` does not split into ``num_heads`` equal heads.
    """
    positive(dim, "dim")
    positive(num_heads, "num_heads")
    if dim % num_heads:
        divisors = [n for n in range(1, dim + 1) if dim % n == 0 and n <= 2 * num_heads]
        raise ValueError(
            f"dim={dim} does not divide into num_heads={num_heads} equal heads; "
            f"num_heads could be one of {divisors}"
        )
    return dim // num_heads


def query_scale(head_dim: int, qk_scale: float | None) -> float:
    """What q · k is multiplied by: ``head_dim ** -1/2`` unless ``qk_scale`` says otherwise.

    Raises:
        ValueError: if it is not a finite number other than zero.
    """
    if qk_scale is None:
        return head_dim**-0.5
    number = isinstance(qk_scale, (int, float)) and not isinstance(qk_scale, bool)
    if not number or not math.isfinite(qk_scale) or qk_scale == 0:
        raise ValueError(
            f"qk_scale must be a number other than zero, or None for head_dim ** -0.5, "
            f"got {qk_scale!r}"
        )
    return float(qk_scale)


def check_map(x: Tensor, dim: int, *, axes: int = 2) -> None:
    """Check that ``x`` is a floating ``(B, dim, H, W)`` feature map with H, W >= 1.

    Args:
        x: the map.
        dim: channels that the module was built with.
        axes: 2 for a map, 3 for a volume ``(B, dim, D, H, W)``.

    Raises:
        TypeError: if ``x`` is not a tensor.
        ValueError: if its dtype, rank, channels or size are wrong.
    """
    sides = ", ".join(("D", "H", "W")[-axes:])
    what = "a feature map" if axes == 2 else "a feature volume"
    _check_floating(x, f"{what} (B, C, {sides})", axes + 2)
    if x.shape[1] != dim:
        raise ValueError(
            f"expected {what} (B, {dim}, {sides}), got {tuple(x.shape)}: "
            f"{x.shape[1]} channels where the module was built with dim={dim}"
        )
    if any(side == 0 for side in x.shape[2:]):
        raise ValueError(f"expected {what} with {sides} >= 1, got {tuple(x.shape)}")


def check_tokens(x: Tensor, dim: int, name: str = "tokens") -> None:
    """Check that ``x`` is a floating ``(B, N, dim)`` sequence with N >= 1.

    Raises:
        TypeError: if ``x`` is not a tensor.
        ValueError: if its dtype, rank, channels or length are wrong.
    """
    _check_floating(x, f"{name} (B, N, C)", 3)
    if x.shape[2] != dim:
        raise ValueError(
            f"expected {name} (B, N, {dim}), got {tuple(x.shape)}: "
            f"{x.shape[2]} channels where the module was built with {dim}"
        )
    if x.shape[1] == 0:
        raise ValueError(f"expected {name} with at least one position, got {tuple(x.shape)}")


def check_key_mask(mask: Tensor | None, batch: int, length: int, name: str = "key_mask") -> None:
    """Check that ``mask``, if there is one, is boolean ``(batch, length)``.

    Raises:
        ValueError: if its dtype or shape is wrong.
    """
    if mask is None:
        return
    if mask.dtype is not torch.bool:
        raise ValueError(f"{name} must be boolean (True: may be attended), got {mask.dtype}")
    if mask.dim() != 2 or mask.shape[0] != batch or mask.shape[1] != length:
        raise ValueError(f"{name} must have shape ({batch}, {length}), got {tuple(mask.shape)}")


def one_of(value: str, choices: Iterable[str], name: str) -> str:
    """``value`` if it is among ``choices``.

    Raises:
        ValueError: if not, with the nearest ones.
    """
    choices = list(choices)
    if value in choices:
        return value
    raise ValueError(f"unknown {name} {value!r}{nearest(value, choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that offers the known words nearest to ``word``, or all of them when few."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known)}" if len(known) <= 40 else ""


def _check_floating(x: Tensor, what: str, rank: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"expected {what} as a torch.Tensor, got {type(x).__name__}")
    if x.dim() != rank:
        raise ValueError(f"expected {what}, got a {x.dim()}-D tensor of shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"expected {what} of a floating dtype, got {x.dtype}; convert it first")
