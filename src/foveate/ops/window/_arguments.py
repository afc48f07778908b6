"""What every body of window attention takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import SymInt, Tensor


class Arguments(NamedTuple):
    """Checked arguments of window attention; the public function documents them.

    Attributes:
        q: ``(B, H, W, heads, D)``.
        k: of the same shape.
        v: ``(B, H, W, heads, Dv)``.
        window_size: rows and columns (wh, ww) of a window, no more than the map's.
        shift_size: how far the windows are moved, down and right.
        spread: whether a window's cells are spread evenly over the map.
        bias: None or ``(heads, wh*ww, wh*ww)``.
        scale: factor of the products.
        dropout_p: probability of dropping a weight.
        seed: of the dropout; None without.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    window_size: Sequence[int | SymInt]
    shift_size: Sequence[int | SymInt]
    spread: bool
    bias: Tensor | None
    scale: float
    dropout_p: float
    seed: Tensor | None = None
