"""What every body of scaling takes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of scaling; the public function documents them.

    Attributes:
        x: ``(B, C, H, W)``.
        first: a factor ``(B, C or 1, H or 1, W or 1)``, of x's dtype.
        second: another or None.
        third: another or None.
        combination: product, mean or sign.
    """

    x: Tensor
    first: Tensor
    second: Tensor | None
    third: Tensor | None
    combination: str

    @property
    def factors(self) -> list[Tensor]:
        """Those that are there."""
        return [f for f in (self.first, self.second, self.third) if f is not None]
