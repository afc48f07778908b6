"""Axes of the charts: from values to pixels, with ticks at round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

LOGARITHMIC_FROM = 12.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """A scale between two values and the pixels where they lie.

    Attributes:
        low: value at the first pixel.
        high: value at the last.
        start: first pixel.
        end: last pixel.
        log: whether equal steps are equal factors.
        whole: whether only whole numbers are marked.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def pixel(self, value: float) -> float:
        """Where a value lies; values beyond the ends lie on them."""
        low, high, value = (
            (log10(self.low), log10(self.high), log10(max(value, 1e-300)))
            if self.log
            else (self.low, self.high, value)
        )
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[float]:
        """At most about ``most`` round numbers between the ends."""
        if self.log:
            return _factors(self.low, self.high)
        return _steps(self.low, self.high, most, 1.0 if self.whole else 0.0)


def axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    margin: float = 0.08,
    bounds: tuple[float, float] = (float("-inf"), float("inf")),
    may_be_log: bool = False,
) -> Axis:
    """An axis that holds ``values`` with some room beside them, within ``bounds``."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low > LOGARITHMIC_FROM:
        factor = (high / low) ** margin
        return Axis(low / factor, high * factor, start, end, log=True)
    room = margin * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(max(bounds[0], low - room), min(bounds[1], high + room), start, end)


def _steps(low: float, high: float, most: int, least: float) -> list[float]:
    rough = max((high - low) / most, least)
    magnitude = 10.0 ** floor(log10(rough))
    numbers = (1, 2, 5, 10) if least else (1, 2, 2.5, 5, 10)
    step = next(n * magnitude for n in numbers if n * magnitude >= rough * 0.999)
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _factors(low: float, high: float) -> list[float]:
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    numbers = (1, 2, 5) if high / low < 1000 else (1,)
    every = [number * 10.0**decade for decade in decades for number in numbers]
    return [value for value in every if low <= value <= high]


def show_tick(value: float) -> str:
    """A tick's number, without needless zeros."""
    return f"{value:,.10g}".replace("-", "−")
