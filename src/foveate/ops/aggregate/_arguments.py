"""What every body of local aggregation takes, and the shape of what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of local aggregation; the public function documents them.

    Attributes:
        values: ``(B, H, W, S, G)``.
        weights: ``(B, H, W, taps, G)``.
        kernel_size: height and width (kh, kw) of the taps.
        dilation: distance of the taps, down and across.
        border: "zero" or "reflect".
        normalize: whether the weights are logits.
    """

    values: Tensor
    weights: Tensor
    kernel_size: Sequence[int]
    dilation: Sequence[int]
    border: str
    normalize: bool
