"""The charts of the report: their places on the page, and the numbers that they show."""

from __future__ import annotations

from typing import Any

from foveate.study.report.markup import Markup, element, section
from foveate.study.results import Results, Row
from foveate.study.statistics import estimate


def costs(results: Results) -> Markup | None:
    """The section with accuracy against latency and against multiply-adds."""
    charts = [
        _chart("cost-latency", "Accuracy against latency", cost_points(results, "latency")),
        _chart("cost-madds", "Accuracy against multiply-adds", cost_points(results, "madds")),
    ]
    if not any(charts):
        return None
    return section(
        "Accuracy and cost",
        "cost",
        element("div", charts, class_="charts"),
        note="Up and to the left is better. The dashed line is the Pareto front: nothing measured "
        "is both cheaper and more accurate than a point on it. Bars are the 95 % interval of the "
        "mean and the quartiles of the latency. Squares are controls.",
    )


def _chart(identifier: str, title: str, points: list[dict[str, Any]]) -> Markup | None:
    if not points:
        return None
    spoken = "; ".join(f"{p['label']} {p['y']:.1f} % at {p['x']:.4g}" for p in points)
    return element(
        "figure",
        element("figcaption", title),
        element("div", class_="plot", id=identifier, role="img", aria_label=f"{title}: {spoken}"),
    )


def cost_points(results: Results, cost: str) -> list[dict[str, Any]]:
    """A point for each mean accuracy against ``latency`` or ``madds``, and which are the front."""
    found = [_point(row, cost) for row in results.rows if row.accuracy is not None]
    points = [point for point in found if point["x"] is not None]
    for point in points:
        point["front"] = not any(_beats(other, point) for other in points)
    return points


def _point(row: Row, cost: str) -> dict[str, Any]:
    mean = estimate(row.accuracies.values())
    point: dict[str, Any] = {
        "label": row.label,
        "control": row.control,
        "y": 100 * mean.mean,
        "low": None if mean.low is None else 100 * mean.low,
        "high": None if mean.high is None else 100 * mean.high,
    }
    if cost == "latency":
        latency = row.latency
        point |= {"x": latency.get("median"), "p25": latency.get("p25"), "p75": latency.get("p75")}
    else:
        madds = row.multiply_adds
        point |= {"x": None if madds is None else madds / 1e6}
    return point


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether ``one`` is at least as good in both, and better in one."""
    no_worse = one["x"] <= other["x"] and one["y"] >= other["y"]
    return no_worse and (one["x"] < other["x"] or one["y"] > other["y"])


def curves(results: Results) -> Markup | None:
    """The section with a learning curve for each thing compared."""
    curves = curve_data(results)
    if not curves:
        return None
    charts = [
        element(
            "figure",
            element("figcaption", curve["label"]),
            element("div", class_="plot small", id=f"curve-{index}", role="img",
                    aria_label=_spoken(curve)),
        )
        for index, curve in enumerate(curves)
    ]  # fmt: skip
    return section(
        "Learning curves",
        "curves",
        element("div", charts, class_="multiples"),
        note="Held-out accuracy (%) after each epoch: the mean over seeds, and the band from the "
        "worst seed to the best; the others are drawn thin behind it. All share one scale, which "
        "starts where the runs are a quarter through.",
    )


def _spoken(curve: dict[str, Any]) -> str:
    return (
        f"{curve['label']}: held-out accuracy from {curve['mean'][0]:.1f} % after the first epoch "
        f"to {curve['mean'][-1]:.1f} % after {curve['epoch'][-1]}"
    )


def curve_data(results: Results) -> list[dict[str, Any]]:
    """Accuracy after each epoch, in percent: mean, least and greatest over seeds."""
    curves = []
    for row in results.rows:
        by_epoch: dict[int, list[float]] = {}
        for trial in row.done.values():
            for step in trial.get("history") or []:
                if step.get("accuracy") is not None:
                    by_epoch.setdefault(int(step["epoch"]), []).append(100 * step["accuracy"])
        if by_epoch:
            curves.append({"label": row.label, "control": row.control, **_band(by_epoch)})
    return curves


def _band(by_epoch: dict[int, list[float]]) -> dict[str, list[Any]]:
    epochs = sorted(by_epoch)
    values = [by_epoch[epoch] for epoch in epochs]
    return {
        "epoch": epochs,
        "mean": [round(sum(v) / len(v), 3) for v in values],
        "low": [round(min(v), 3) for v in values],
        "high": [round(max(v), 3) for v in values],
    }
