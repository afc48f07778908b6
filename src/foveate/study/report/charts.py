"""Score against cost: a labelled scatter plot with its Pareto front, drawn as SVG.

Each chart is drawn twice, for a wide and for a narrow page, and the style sheet shows one: text in
an SVG that is merely scaled down cannot be read on a telephone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import hypot
from typing import NamedTuple

from foveate.metrics import Metric
from foveate.study.numbers import scaled
from foveate.study.report.axes import Axis, axis, show_tick
from foveate.study.report.labels import Box, Label, place_labels, text_width
from foveate.study.report.markup import Markup, element, section
from foveate.study.report.reducers import by_reducer
from foveate.study.results import Results, Row
from foveate.study.statistics import Estimate

FEW = 12
"""Up to this many points two charts stand side by side; more need the whole width."""

_LABEL, _LINE = 12.0, 15.0


@dataclass(frozen=True)
class Point:
    """One thing compared, in a chart of score against cost.

    Attributes:
        label: what it is called.
        control: whether it is a control.
        x: its cost.
        x_low: lower end of the cost's interval; None where it does not vary.
        x_high: its upper end.
        y: mean score, as printed.
        low: lower end of the interval of the mean; None with one seed.
        high: its upper end.
        front: whether nothing is both cheaper and better.
        curve: what its settings lie on one line with; None where it stands alone.
    """

    label: str
    control: bool
    x: float
    x_low: float | None
    x_high: float | None
    y: float
    low: float | None
    high: float | None
    front: bool = False
    curve: str | None = None


class Frame(NamedTuple):
    """The size of a drawing, its margins, and for which page it is."""

    width: int
    height: int
    page: str
    left: int = 50
    right: int = 12
    top: int = 10
    bottom: int = 42


def frames(points: int) -> tuple[Frame, Frame]:
    """The wide and the narrow drawing of a chart with so many points."""
    if points <= FEW:
        return Frame(520, 380, "wide"), Frame(330, 360, "narrow", left=42)
    more = min(points, 60) - FEW
    return Frame(1060, 440 + 6 * more, "wide"), Frame(330, 400 + 10 * more, "narrow", left=42)


def axis_title(metric: Metric) -> str:
    """The metric with its unit, as an axis says it."""
    return f"held-out {metric.words}" + (f" ({metric.unit})" if metric.unit else "")


def costs(results: Results) -> Markup | None:
    """The section with the score against latency and against multiply-adds."""
    metric = results.metric
    name = metric.words[0].upper() + metric.words[1:]
    charts = [
        _chart(f"{name} against latency", _latency_title(results), latency_points(results), metric),
        _chart(
            f"{name} against multiply-adds",
            "multiply-adds, million an image",
            multiply_add_points(results),
            metric,
        ),
    ]
    if not any(charts):
        return None
    better = "Up" if metric.higher_is_better else "Down"
    crowd = " crowd" if len(results.rows) > FEW else ""
    several = any(len(rows) > 1 for rows in by_reducer(results.rows).values())
    joined = " A line joins the settings of one reducer." if several else ""
    return section(
        f"{name} and cost",
        "cost",
        element("div", charts, class_=f"charts{crowd}"),
        note=f"{better} and to the left is better. The dashed line is the Pareto front: nothing "
        "measured is both cheaper and better than a point on it. Bars are the 95 % intervals of "
        f"the mean score and of the latency. Squares are controls.{joined}",
    )


def _latency_title(results: Results) -> str:
    timed_in = results.timed_in
    return f"latency in {timed_in.title}, ms an image" if timed_in else "latency, ms a batch"


def _chart(title: str, x_title: str, points: list[Point], metric: Metric) -> Markup | None:
    if not points:
        return None
    front = ", ".join(p.label for p in sorted(points, key=lambda p: p.x) if p.front)
    drawn = [_draw(points, frame, title, x_title, metric) for frame in frames(len(points))]
    return element(
        "figure",
        element("figcaption", title),
        drawn,
        element("p", f"On the front: {front}.", class_="note"),
    )


def latency_points(results: Results) -> list[Point]:
    """A point for each mean score against latency in milliseconds."""
    points = [
        _point(row, row.estimate, row.latency.median, row.latency.interval)
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
    row: Row, found: Estimate, cost: float, interval: tuple[float, float] | None = None
) -> Point:
    return Point(
        label=row.label,
        control=row.control,
        x=cost,
        x_low=interval and interval[0],
        x_high=interval and interval[1],
        y=scaled(found.mean, row.metric),
        low=None if found.low is None else scaled(found.low, row.metric),
        high=None if found.high is None else scaled(found.high, row.metric),
        curve=row.subject.mechanism if row.subject.role == "reducer" else None,
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


# Drawing


def axes_of(points: Sequence[Point], frame: Frame, metric: Metric) -> tuple[Axis, Axis]:
    """The axes of a chart of these points. Wide intervals may leave it: the points decide."""
    inner_left, inner_right = frame.left, frame.width - frame.right
    x = axis([point.x for point in points], inner_left, inner_right, margin=0.12, may_be_log=True)
    bounds = scaled(metric.bounds[0], metric), scaled(metric.bounds[1], metric)
    means = [point.y for point in points]
    ends = [end for p in points for end in (p.low, p.high) if end is not None]
    spread = max(means) - min(means) or max([abs(end - means[0]) for end in ends], default=1.0)
    shown = [min(max(end, min(means) - spread), max(means) + spread) for end in ends]
    y = axis([*means, *shown], frame.height - frame.bottom, frame.top, bounds=bounds)
    return x, y


def labels_of(points: Sequence[Point], frame: Frame, metric: Metric) -> list[Label | None]:
    """The places of the labels in a chart of these points."""
    x, y = axes_of(points, frame, metric)
    area = Box(frame.left + 2, frame.top, frame.width - 2, frame.height - frame.bottom - 2)
    return place_labels(
        [(x.pixel(p.x), y.pixel(p.y)) for p in points],
        [(text_width(p.label, _LABEL) + 4, _LINE) for p in points],
        area,
        [box for p in points for box in _bars(p, x, y)]
        + _front_boxes(points, x, y, frame)
        + _curve_boxes(points, x, y),
    )


def _draw(
    points: Sequence[Point], frame: Frame, title: str, x_title: str, metric: Metric
) -> Markup:
    x, y = axes_of(points, frame, metric)
    labels = labels_of(points, frame, metric)
    unnamed = [index for index, label in enumerate(labels) if label is None]
    numbers = {index: number for number, index in enumerate(unnamed, 1)}
    spoken = "; ".join(f"{p.label} {p.y:.4g} at {p.x:.4g}" for p in points)
    drawing = element(
        "svg",
        grid(x, y, frame, x_title, axis_title(metric)),
        _front(points, x, y, frame),
        _curves(points, x, y),
        [_intervals(point, x, y) for point in points],
        [_mark(point, x, y, metric, numbers.get(i)) for i, point in enumerate(points)],
        [_label(p, label) for p, label in zip(points, labels, strict=True) if label],
        viewBox=f"0 0 {frame.width} {frame.height}",
        class_=f"chart {frame.page}",
        role="img",
        aria_label=f"{title}: {spoken}",
    )
    if not numbers:
        return drawing
    key = ", ".join(f"{number} {points[index].label}" for index, number in numbers.items())
    return element("div", drawing, element("p", key, class_="note key"), class_=frame.page)


def grid(x: Axis, y: Axis, frame: Frame, x_title: str, y_title: str | None) -> list[Markup]:
    """Lines at the ticks, their numbers, and the titles of the axes."""
    bottom = frame.height - frame.bottom
    drawn = []
    for tick in y.ticks(6):
        at = y.pixel(tick)
        drawn.append(element("line", x1=frame.left, x2=frame.width - frame.right, y1=at, y2=at,
                             class_="grid"))  # fmt: skip
        drawn.append(_text(show_tick(tick), frame.left - 6, at + 3.5, "tick end"))
    for tick in x.ticks(5):
        at = x.pixel(tick)
        drawn.append(element("line", x1=at, x2=at, y1=frame.top, y2=bottom, class_="grid"))
        drawn.append(_text(show_tick(tick), at, bottom + 15, "tick middle"))
    middle = (frame.left + frame.width - frame.right) / 2
    drawn.append(_text(x_title, middle, frame.height - 6, "title middle"))
    if y_title is not None:
        height = (frame.top + bottom) / 2
        drawn.append(_text(y_title, 12, height, "title middle",
                           transform=f"rotate(-90 12 {height})"))  # fmt: skip
    return drawn


def _text(text: str, x: float, y: float, class_: str, **more: object) -> Markup:
    return element("text", text, x=round(x, 1), y=round(y, 1), class_=class_, **more)


def _front(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> Markup:
    """Steps through the points that nothing beats, open to the right."""
    front = sorted((point for point in points if point.front), key=lambda point: point.x)
    steps = [f"M{x.pixel(front[0].x)} {y.pixel(front[0].y)}"]
    steps += [f"H{x.pixel(point.x)}V{y.pixel(point.y)}" for point in front[1:]]
    return element("path", d="".join([*steps, f"H{frame.width - frame.right}"]), class_="front")


def _front_boxes(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> list[Box]:
    """What the level stretches of the front cover."""
    front = sorted((point for point in points if point.front), key=lambda point: point.x)
    ends = [*(x.pixel(point.x) for point in front[1:]), frame.width - frame.right]
    return [
        Box(x.pixel(point.x), y.pixel(point.y) - 2, end, y.pixel(point.y) + 2)
        for point, end in zip(front, ends, strict=True)
    ]


def _on_curves(points: Sequence[Point], x: Axis, y: Axis) -> dict[str, list[tuple[float, float]]]:
    """Pixels of the settings of each curve that has several, by cost."""
    found: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.x):
        if point.curve is not None:
            found.setdefault(point.curve, []).append(point)
    return {
        name: [(x.pixel(point.x), y.pixel(point.y)) for point in each]
        for name, each in found.items()
        if len(each) > 1
    }


def _curves(points: Sequence[Point], x: Axis, y: Axis) -> list[Markup]:
    """A line through the settings of each reducer, from the cheapest to the costliest."""
    return [
        element(
            "polyline",
            element("title", name),
            points=" ".join(f"{across},{up}" for across, up in along),
            class_="settings",
        )
        for name, along in _on_curves(points, x, y).items()
    ]


def _curve_boxes(points: Sequence[Point], x: Axis, y: Axis) -> list[Box]:
    """What the lines cover, as small boxes along them."""
    boxes = []
    for along in _on_curves(points, x, y).values():
        for (x1, y1), (x2, y2) in pairwise(along):
            steps = max(1, round(hypot(x2 - x1, y2 - y1) / 6))
            for step in range(steps + 1):
                across, up = x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps
                boxes.append(Box(across - 2, up - 2, across + 2, up + 2))
    return boxes


def _bars(point: Point, x: Axis, y: Axis) -> list[Box]:
    """What the intervals of a point cover."""
    across, up = x.pixel(point.x), y.pixel(point.y)
    boxes = []
    if point.low is not None and point.high is not None:
        boxes.append(Box(across - 1, y.pixel(point.high), across + 1, y.pixel(point.low)))
    if point.x_low is not None and point.x_high is not None:
        boxes.append(Box(x.pixel(point.x_low), up - 1, x.pixel(point.x_high), up + 1))
    return boxes


def _intervals(point: Point, x: Axis, y: Axis) -> list[Markup]:
    return [
        element("rect", x=round(box.left, 1), y=round(box.top, 1),
                width=round(box.right - box.left, 1), height=round(box.bottom - box.top, 1),
                class_="bar control" if point.control else "bar")
        for box in _bars(point, x, y)
    ]  # fmt: skip


def _mark(point: Point, x: Axis, y: Axis, metric: Metric, number: int | None) -> Markup:
    across, up = x.pixel(point.x), y.pixel(point.y)
    interval = "" if point.low is None else f" ({point.low:.3g} to {point.high:.3g})"
    about = f"{point.label}: {point.y:.3g}{interval} {metric.unit}, at {point.x:.3g}"
    shape = (
        element("rect", x=across - 4, y=up - 4, width=8, height=8, class_="dot control")
        if point.control
        else element("circle", cx=across, cy=up, r=5, class_="dot")
    )
    named = number and _text(str(number), across + 6, up - 5, "number")
    return element("g", element("title", about), shape, named)


def _label(point: Point, label: Label) -> list[Markup | None]:
    box, line = label
    width = round(box.right - box.left - 4, 1)
    drawn = line and element(
        "line", x1=round(line[0], 1), y1=round(line[1], 1), x2=round(line[2], 1),
        y2=round(line[3], 1), class_="lead",
    )  # fmt: skip
    return [
        drawn,
        _text(point.label, box.left + 2, box.bottom - 3.5,
              "name control" if point.control else "name", textLength=width,
              lengthAdjust="spacingAndGlyphs"),
    ]  # fmt: skip
