"""What every body of the narrow convolution takes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of the narrow convolution; the public function documents them.

    Attributes:
        x: ``(B, I, H, W)``.
        weight: ``(O, I, kh, kw)``, of x's dtype.
    """

    x: Tensor
    weight: Tensor
