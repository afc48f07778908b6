"""The charts of the report: their places on the page, and the numbers that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import NamedTuple

from foveate.metrics import Metric
from foveate.study.numbers import scaled
from foveate.study.report.markup import Markup, element, section
from foveate.study.results import Results, Row
from foveate.study.statistics import Estimate


@dataclass(frozen=True)
class Point:
    """One thing compared, in a chart of score against cost.

    Attributes:
        label: what it is called.
        control: whether it is a control.
        x: its cost.
        p25: lower quartile of the cost; None where it does not vary.
        p75: its upper quartile.
        y: mean score, as printed.
        low: lower end of the interval of the mean; None with one seed.
        high: its upper end.
        front: whether nothing is both cheaper and better.
    """

    label: str
    control: bool
    x: float
    p25: float | None
    p75: float | None
    y: float
    low: float | None
    high: float | None
    front: bool = False


class Curve(NamedTuple):
    """Scores after each epoch, as printed: mean, least and greatest over seeds."""

    label: str
    control: bool
    epoch: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class ChartData:
    """What the page's script draws.

    Attributes:
        axis: title of the axis of scores.
        unit: of the scores.
        greatest: of the scores that can be, as printed; None where there is none.
        latency: points of score against latency.
        madds: points of score against multiply-adds.
        curves: learning curves.
    """

    axis: str
    unit: str
    greatest: float | None
    latency: list[Point]
    madds: list[Point]
    curves: list[Curve]


def chart_data(results: Results) -> ChartData:
    """The numbers of all charts."""
    metric = results.metric
    greatest = scaled(metric.bounds[1], metric)
    return ChartData(
        axis=axis(metric),
        unit=metric.unit,
        greatest=greatest if isfinite(greatest) else None,
        latency=latency_points(results),
        madds=multiply_add_points(results),
        curves=learning_curves(results),
    )


def axis(metric: Metric) -> str:
    """The metric with its unit, as an axis says it."""
    return f"held-out {metric.name}" + (f" ({metric.unit})" if metric.unit else "")


def costs(results: Results) -> Markup | None:
    """The section with the score against latency and against multiply-adds."""
    metric = results.metric
    name = metric.name.capitalize()
    charts = [
        _chart("cost-latency", f"{name} against latency", latency_points(results)),
        _chart("cost-madds", f"{name} against multiply-adds", multiply_add_points(results)),
    ]
    if not any(charts):
        return None
    better = "Up" if metric.higher_is_better else "Down"
    return section(
        f"{name} and cost",
        "cost",
        element("div", charts, class_="charts"),
        note=f"{better} and to the left is better. The dashed line is the Pareto front: nothing "
        "measured is both cheaper and better than a point on it. Bars are the 95 % interval of the "
        "mean and the quartiles of the latency. Squares are controls.",
    )


def _chart(identifier: str, title: str, points: list[Point]) -> Markup | None:
    if not points:
        return None
    spoken = "; ".join(f"{point.label} {point.y:.4g} at {point.x:.4g}" for point in points)
    return element(
        "figure",
        element("figcaption", title),
        element("div", class_="plot", id=identifier, role="img", aria_label=f"{title}: {spoken}"),
    )


def latency_points(results: Results) -> list[Point]:
    """A point for each mean score against latency in milliseconds."""
    points = [
        _point(row, row.estimate, row.latency.median, (row.latency.p25, row.latency.p75))
        for row in results.rows
        if row.estimate is not None and row.latency is not None
    ]
    return _with_front(points, results.metric)


def multiply_add_points(results: Results) -> list[Point]:
    """A point for each mean score against millions of multiply-adds an image."""
    points = [
        _point(row, row.estimate, row.multiply_adds / 1e6)
        for row in results.rows
        if row.estimate is not None and row.multiply_adds is not None
    ]
    return _with_front(points, results.metric)


def _point(
    row: Row, found: Estimate, cost: float, quartiles: tuple[float, float] | None = None
) -> Point:
    return Point(
        label=row.label,
        control=row.control,
        x=cost,
        p25=quartiles and quartiles[0],
        p75=quartiles and quartiles[1],
        y=scaled(found.mean, row.metric),
        low=None if found.low is None else scaled(found.low, row.metric),
        high=None if found.high is None else scaled(found.high, row.metric),
    )


def _with_front(points: Sequence[Point], metric: Metric) -> list[Point]:
    """The points, of which those are marked that no other beats."""
    sign = 1 if metric.higher_is_better else -1

    def beats(one: Point, other: Point) -> bool:
        no_worse = one.x <= other.x and sign * one.y >= sign * other.y
        return no_worse and (one.x < other.x or sign * one.y > sign * other.y)

    return [
        replace(point, front=not any(beats(other, point) for other in points)) for point in points
    ]


def curves(results: Results) -> Markup | None:
    """The section with a learning curve for each thing compared."""
    drawn = learning_curves(results)
    if not drawn:
        return None
    charts = [
        element(
            "figure",
            element("figcaption", curve.label),
            element("div", class_="plot small", id=f"curve-{index}", role="img",
                    aria_label=_spoken(curve, results.metric)),
        )
        for index, curve in enumerate(drawn)
    ]  # fmt: skip
    title = axis(results.metric)
    return section(
        "Learning curves",
        "curves",
        element("div", charts, class_="multiples"),
        note=f"{title[0].upper()}{title[1:]} after each epoch: the mean over seeds, and the band "
        "from the lowest seed to the highest; the others are drawn thin behind it. All share one "
        "scale, which starts where the runs are a quarter through.",
    )


def _spoken(curve: Curve, metric: Metric) -> str:
    return (
        f"{curve.label}: held-out {metric.name} from {curve.mean[0]:.4g} after the first epoch to "
        f"{curve.mean[-1]:.4g} {metric.unit} after {curve.epoch[-1]}"
    )


def learning_curves(results: Results) -> list[Curve]:
    """Scores after each epoch, of what has finished."""
    return [_curve(row) for row in results.rows if any(t.history for t in row.done.values())]


def _curve(row: Row) -> Curve:
    by_epoch: dict[int, list[float]] = {}
    for trial in row.done.values():
        for epoch in trial.history:
            by_epoch.setdefault(epoch.epoch, []).append(scaled(epoch.score, row.metric))
    epochs = sorted(by_epoch)
    values = [by_epoch[epoch] for epoch in epochs]
    return Curve(
        label=row.label,
        control=row.control,
        epoch=epochs,
        mean=[round(sum(v) / len(v), 3) for v in values],
        low=[round(min(v), 3) for v in values],
        high=[round(max(v), 3) for v in values],
    )
