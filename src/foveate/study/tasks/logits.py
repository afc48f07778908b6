"""Whether what a model gives are logits of the shape that a task takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def wrong_logits(expected: tuple[int, ...], given: Any) -> str | None:
    """Why ``given`` is no batch of logits (B, *expected), in words; None where it is one.

    Args:
        expected: (K,) or, at each pixel, (K, H, W).
        given: what a model gives.
    """
    shape = tuple(given.shape[1:]) if isinstance(given, Tensor) else type(given).__name__
    if shape == expected:
        return None
    return f"gives {shape}, and should one logit for each of {expected[0]} classes" + (
        f" at each pixel: {expected}" if len(expected) > 1 else ""
    )
