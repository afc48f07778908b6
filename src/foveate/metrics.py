"""What a task measures: a name, a unit, which way is better, and what values there can be."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A measure of how good predictions are.

    Attributes:
        name: as sentences use it, for example ``"accuracy"``.
        unit: ``"%"`` for shares, which are kept in [0, 1] and shown as percent; else the unit's
            symbol, or empty.
        higher_is_better: whether more is better.
        bounds: the lowest and the highest value that can exist.
    """

    name: str
    unit: str
    higher_is_better: bool
    bounds: tuple[float, float]
