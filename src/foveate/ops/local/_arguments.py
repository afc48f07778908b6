"""What every body of local attention takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of local attention; the public function documents them.

    Attributes:
        q: ``(B, H, W, heads, D)``.
        k: of the same shape.
        v: ``(B, H, W, heads, Dv)``.
        kernel_size: height and width (kh, kw) of a window.
        dilation: steps between the positions of a window, down and across.
        bias: None, a relative table ``(heads, 2*kh-1, 2*kw-1)``, or one number a query and tap
            ``(B, H, W, heads, kh, kw)``.
        scale: factor of the products.
        border: "shift", "zero", "mask" or "reflect".
        key_mask: None or ``(B, H, W)`` bool, True where a key may be attended.
        dropout_p: probability of dropping a weight.
        seed: of the dropout; None without.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    kernel_size: Sequence[int]
    dilation: Sequence[int]
    bias: Tensor | None
    scale: float
    border: str
    key_mask: Tensor | None
    dropout_p: float
    seed: Tensor | None = None
