"""How the values of a metric are printed: shares in percent, their differences in points."""

from __future__ import annotations

from foveate.metrics import Metric


def scaled(value: float, metric: Metric) -> float:
    """The number that is printed."""
    return 100 * value if metric.unit == "%" else value


def show_number(value: float, metric: Metric) -> str:
    """The value without its unit, ``93.1``."""
    return f"{100 * value:.1f}" if metric.unit == "%" else f"{value:#.3g}".rstrip(".")


def show_value(value: float, metric: Metric) -> str:
    """The value with its unit, ``93.1 %``."""
    return f"{show_number(value, metric)} {metric.unit}".rstrip()


def show_signed(difference: float, metric: Metric) -> str:
    """A difference with its sign, without its unit: ``+1.0``."""
    return f"{100 * difference:+.1f}" if metric.unit == "%" else f"{difference:+#.3g}".rstrip(".")


def show_distance(distance: float, metric: Metric) -> str:
    """A difference without its sign, with its unit: ``1.0 point``."""
    number = show_number(distance, metric)
    unit = "point" if (metric.unit, number) == ("%", "1.0") else unit_of_differences(metric)
    return f"{number} {unit}".rstrip()


def unit_of_differences(metric: Metric) -> str:
    """``points`` for percentages, else the metric's own unit."""
    return "points" if metric.unit == "%" else metric.unit
