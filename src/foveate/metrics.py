"""What a task measures on held-out images: one number a run, and how to read it."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: what tables and sentences call it, such as ``"accuracy"``.
        unit: ``"%"`` for a share in [0, 1], which is printed in percent; else the unit as printed,
            ``""`` where there is none.
        higher_is_better: whether more of it is better.
        bounds: the least and the greatest value it can take; infinite where there is none.
    """

    name: str
    unit: str
    higher_is_better: bool
    bounds: tuple[float, float]


ACCURACY = Metric("accuracy", "%", True, (0.0, 1.0))
"""The share of images whose class is found."""
