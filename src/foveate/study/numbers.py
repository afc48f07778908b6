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


def show_range(low: float, high: float, metric: Metric) -> str:
    """An interval of a difference, with signs and the unit: ``+0.3 to +1.7 points``."""
    ends = dict.fromkeys(show_signed(end, metric) for end in (low, high))
    return f"{' to '.join(ends)} {unit_of_differences(metric)}".rstrip()


def show_ms(milliseconds: float) -> str:
    """A time to three digits, without its unit: ``0.123``, ``8.12``, ``31.2``, ``1,240``."""
    if milliseconds >= 100:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:#.3g}"
