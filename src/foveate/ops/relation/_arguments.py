"""What every body of local relations takes, and the shape of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of local relations; the public function documents them.

    Attributes:
        q: ``(B, H, W, C)``.
        k: of the same shape.
        kernel_size: height and width (kh, kw) of the taps.
        dilation: distance of the taps, down and across.
        border: "zero" or "reflect".
        relation: "difference" or "concatenation".
        scale: None, or what numbers are multiplied by: ``(C,)`` of a difference,
            ``(C * (1 + taps),)`` of a concatenation.
        shift: what is then added, before negative numbers become zero; None with ``scale``.
    """

    q: Tensor
    k: Tensor
    kernel_size: Sequence[int]
    dilation: Sequence[int]
    border: str
    relation: str
    scale: Tensor | None
    shift: Tensor | None


def output(a: Arguments) -> Tensor:
    """The output, still empty."""
    taps = a.kernel_size[0] * a.kernel_size[1]
    *sizes, dim = a.q.shape
    rows = (taps, dim) if a.relation == "difference" else (dim * (taps + 1),)
    return a.q.new_empty((*sizes, *rows))
