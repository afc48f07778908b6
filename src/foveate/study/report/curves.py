"""Learning curves: one small chart for each thing compared, all on one scale, drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from foveate.metrics import Metric
from foveate.study.numbers import scaled, show_number
from foveate.study.report.axes import Axis, axis
from foveate.study.report.charts import Frame, axis_title, grid
from foveate.study.report.markup import Markup, breakable, element, section
from foveate.study.results import Results, Row

_FRAME = Frame(240, 160, "small", left=34, right=8, top=8, bottom=32)


class Curve(NamedTuple):
    """Scores after each epoch, as printed: mean, least and greatest over seeds."""

    label: str
    control: bool
    epoch: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curves(results: Results) -> Markup | None:
    """The section with a learning curve for each thing compared."""
    drawn = learning_curves(results)
    if not drawn:
        return None
    x, y = _axes(drawn, results.metric)
    others = element("g", [_line(curve, x, y, "other") for curve in drawn], id="all-curves")
    symbols = element("svg", element("defs", others), class_="defs", aria_hidden="true",
                      width=0, height=0)  # fmt: skip
    charts = [_chart(curve, x, y, results.metric) for curve in drawn]
    title = axis_title(results.metric)
    return section(
        "Learning curves",
        "curves",
        symbols,
        element("div", charts, class_="multiples"),
        note=f"{title[0].upper()}{title[1:]} after each epoch: the mean over seeds, and the band "
        "from the lowest seed to the highest; the others are drawn thin behind it. All share one "
        "scale. A curve that still rises at its end would have gained from more epochs.",
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


def _axes(drawn: Sequence[Curve], metric: Metric) -> tuple[Axis, Axis]:
    first = min(curve.epoch[0] for curve in drawn)
    last = max(curve.epoch[-1] for curve in drawn)
    values = [value for curve in drawn for value in (*curve.low, *curve.high)]
    bounds = scaled(metric.bounds[0], metric), scaled(metric.bounds[1], metric)
    right, bottom = _FRAME.width - _FRAME.right, _FRAME.height - _FRAME.bottom
    x = axis([first, max(last, first + 1)], _FRAME.left, right, margin=0.03)
    x = replace(x, whole=True)
    return x, axis(values, bottom, _FRAME.top, margin=0.05, bounds=bounds)


def _chart(curve: Curve, x: Axis, y: Axis, metric: Metric) -> Markup:
    said = (
        f"{curve.label}: held-out {metric.words} from {curve.mean[0]:.4g} after epoch "
        f"{curve.epoch[0]} to {curve.mean[-1]:.4g} {metric.unit} after epoch {curve.epoch[-1]}"
    )
    steps = [
        f"{epoch}: {mean:.4g} ({low:.4g} to {high:.4g})"
        for epoch, mean, low, high in zip(*curve[2:], strict=True)
    ]
    control = " control" if curve.control else ""
    shape = (
        _line(curve, x, y, f"own{control}")
        if len(curve.epoch) > 1
        else element("circle", cx=x.pixel(curve.epoch[0]), cy=y.pixel(curve.mean[0]), r=3,
                     class_=f"dot{control}")
    )  # fmt: skip
    drawing = element(
        "svg",
        element("title", f"{said}. By epoch: {'; '.join(steps)}"),
        grid(x, y, _FRAME, "epoch", None),
        element("use", href="#all-curves"),
        element("polygon", points=_band(curve, x, y), class_=f"band{control}"),
        shape,
        viewBox=f"0 0 {_FRAME.width} {_FRAME.height}",
        class_="chart",
        role="img",
        aria_label=said,
    )
    end = show_number(curve.mean[-1] / (100 if metric.unit == "%" else 1), metric)
    caption = element(
        "figcaption",
        element("span", breakable(curve.label)),
        element("small", f"{end} {metric.unit}"),
    )
    return element("figure", caption, drawing)


def _line(curve: Curve, x: Axis, y: Axis, class_: str) -> Markup:
    points = zip(curve.epoch, curve.mean, strict=True)
    return element("polyline", class_=class_,
                   points=" ".join(f"{x.pixel(e)},{y.pixel(v)}" for e, v in points))  # fmt: skip


def _band(curve: Curve, x: Axis, y: Axis) -> str:
    there = list(zip(curve.epoch, curve.high, strict=True))
    back = list(zip(curve.epoch, curve.low, strict=True))[::-1]
    return " ".join(f"{x.pixel(epoch)},{y.pixel(value)}" for epoch, value in there + back)
