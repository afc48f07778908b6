"""The tables of the report: what was measured, and the tests behind the verdict."""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any

from foveate.study.report.markup import Markup, count, element, section
from foveate.study.results import Results, Row
from foveate.study.statistics import Comparison, Estimate, Verdict, estimate

DASH = "–"

_COLUMNS = (
    ("Mechanism", "", "text"),
    ("Held-out accuracy", "%", "descending"),
    ("Parameters", "", "ascending"),
    ("Multiply-adds", "million an image", "ascending"),
    ("Latency", "ms a batch", "ascending"),
    ("Peak memory", "MB", "ascending"),
    ("Training", "images/s", "descending"),
)


def results_table(results: Results) -> Markup:
    """The section with the table of everything measured; its columns sort."""
    strip = _Strip(results)
    head = [_column(index, *column) for index, column in enumerate(_COLUMNS)]
    rows = [_row(row, strip) for row in results.rows]
    table = element(
        "table",
        element("thead", element("tr", head)),
        element("tbody", rows),
        class_="results",
    )
    return section(
        "Results",
        "results",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Results, scrolls sideways"),
        note=_table_note(results),
    )  # fmt: skip


def _table_note(results: Results) -> str:
    latency = next((row.latency for row in results.rows if row.latency), {})
    batch, repeats = latency.get("batch"), latency.get("repeats")
    timed = (
        f" Latency is the median of {repeats} forward passes of {count(batch, 'image')}, "
        "with its quartiles; memory is the most held at once in one, beyond weights and input."
        if latency
        else ""
    )
    return (
        "Accuracy is the mean over seeds with its 95 % t interval; dots are the seeds."
        f"{_sampling(results)}{timed} Choose a column's name to sort by it."
    )


def _sampling(results: Results) -> str:
    """What the number of held-out images leaves open, whatever the seeds say."""
    held_out, best = results.images.get("test"), results.rows[0].accuracy
    if not held_out or best is None or not 0 < best < 1:
        return ""
    half = 1.96 * sqrt(best * (1 - best) / held_out)
    return (
        f" All are measured on the same {count(held_out, 'image')}: one image is "
        f"{100 / held_out:.2g} points, and another draw of as many would move "
        f"{100 * best:.1f} % by about ±{100 * half:.1f} points."
    )


def _column(index: int, name: str, unit: str, order: str) -> Markup:
    label = [name, element("small", unit)] if unit else [name]
    button = element("button", element("span", label), type="button", data_order=order)
    return element("th", button, scope="col", aria_sort="descending" if index == 1 else None)


def _row(row: Row, strip: _Strip) -> Markup:
    memory, rate = row.measured.get("peak_memory_mb"), row.train_images_per_second
    return element(
        "tr",
        element("th", _name(row), scope="row", data_sort=row.label.lower()),
        element("td", _accuracy(row, strip), data_sort=_sortable(row.accuracy)),
        _number(row.parameters, "{:,}"),
        _number(row.multiply_adds, "{:,.1f}", 1e-6),
        element("td", _latency(row), data_sort=_sortable(row.latency.get("median"))),
        _number(memory, "{:,.1f}"),
        _number(rate, "{:,.0f}"),
        class_="control" if row.control else None,
    )


def _name(row: Row) -> list[Any]:
    kind = " · ".join(dict.fromkeys(filter(None, [row.family, row.role.replace("_", " ")])))
    return [
        element("span", _breakable(row.label), class_="label"),
        element("small", kind or None),
        [_failure(seed, trial) for seed, trial in sorted(row.failed.items())],
    ]


def _breakable(label: str) -> list[Any]:
    """The label, which may be broken after underscores."""
    first, *rest = label.split("_")
    return [first, *(["_", element("wbr"), part] for part in rest)]


def _failure(seed: int, trial: dict[str, Any]) -> Markup:
    reason = " ".join(str(trial.get("error") or "no reason was recorded").split())
    return element("small", f"Seed {seed} failed: {_shortened(reason)}", class_="failed")


def _accuracy(row: Row, strip: _Strip) -> Any:
    if row.accuracy is None:
        return DASH
    found = estimate(row.accuracies.values())
    number = element("span", f"{100 * found.mean:.1f}", class_="value")
    text = element("div", number, element("small", _interval(found)))
    return element("div", strip.draw(row, found), text, class_="accuracy")


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "one seed"
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _latency(row: Row) -> list[Any]:
    latency = row.latency
    if latency.get("median") is None:
        return [DASH]
    spread = [latency.get("p25"), latency.get("p75")]
    quartiles = None if None in spread else f"{spread[0]:.1f} to {spread[1]:.1f}"
    return [
        element("span", f"{latency['median']:.1f}", class_="value"),
        element("small", quartiles),
    ]


def _number(value: float | None, form: str, scale_: float = 1) -> Markup:
    text = DASH if value is None else form.format(value * scale_ if scale_ != 1 else value)
    return element("td", text, data_sort=_sortable(value))


def _sortable(value: float | None) -> str | None:
    return None if value is None else repr(value)


class _Strip:
    """Accuracies on one scale: the seeds as dots, the interval as a line."""

    WIDTH, HEIGHT, EDGE = 120, 14, 5

    def __init__(self, results: Results) -> None:
        values = [a for row in results.rows for a in row.accuracies.values()] or [0.0]
        room = 0.25 * (max(values) - min(values)) or 0.01
        self.low, self.high = max(0.0, min(values) - room), min(1.0, max(values) + room)

    def draw(self, row: Row, found: Estimate) -> Markup:
        middle = self.HEIGHT / 2
        line = None
        if found.low is not None and found.high is not None:
            line = element("line", x1=self._x(found.low), x2=self._x(found.high),
                           y1=middle, y2=middle)  # fmt: skip
        dots = [
            element("circle", cx=self._x(value), cy=middle, r=3)
            for value in row.accuracies.values()
        ]
        return element(
            "svg", line, dots, class_="strip", viewBox=f"0 0 {self.WIDTH} {self.HEIGHT}",
            width=self.WIDTH, height=self.HEIGHT, aria_hidden="true",
        )  # fmt: skip

    def _x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.EDGE + share * (self.WIDTH - 2 * self.EDGE), 1)


def tests_table(verdict: Verdict) -> Markup | None:
    """The section with the comparisons that the verdict rests on."""
    if not verdict.comparisons:
        return None
    head = ["Compared", "Difference", "95 % interval", "Effect", "p", "p, corrected", "Seeds"]
    units = ["", "points", "points", "Hedges' g", "paired t", "Holm", ""]
    columns = [
        element("th", name, element("small", unit) if unit else None, scope="col")
        for name, unit in zip(head, units, strict=True)
    ]
    table = element(
        "table",
        element("thead", element("tr", columns)),
        element("tbody", [_comparison(comparison) for comparison in verdict.comparisons]),
        class_="tests",
    )
    return section(
        "The tests behind the verdict",
        "tests",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Tests, scrolls sideways"),
        note="Paired over seeds: one seed means the same order of the same images for both. "
        "Intervals are not corrected for the number of comparisons; the last p values are. Nothing "
        "here speaks of other data, another split or another recipe.",
    )  # fmt: skip


def _comparison(made: Comparison) -> Markup:
    interval = (
        DASH if isnan(made.low) else f"{_signed(100 * made.low)} to {_signed(100 * made.high)}"
    )
    return element(
        "tr",
        element("th", f"{made.first} against {made.second}", scope="row"),
        element("td", _signed(100 * made.difference)),
        element("td", interval),
        element("td", DASH if isnan(made.effect) else _signed(made.effect)),
        element("td", _p(made.p)),
        element("td", _p(made.corrected_p)),
        element("td", made.seeds),
        class_="shown" if made.shown else None,
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    if isnan(value):
        return DASH
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _shortened(text: str, length: int = 160) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
