"""The tables of the report: what was measured, and the tests behind the verdict."""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any, Literal, NamedTuple

from foveate.metrics import ACCURACY, Metric
from foveate.study.numbers import show_ms, show_number, show_signed, unit_of_differences
from foveate.study.records import TrialRecord
from foveate.study.report.markup import Markup, breakable, count, element, section
from foveate.study.results import Results, Row
from foveate.study.statistics import Comparison, Estimate, Verdict

DASH = "–"


class Column(NamedTuple):
    """A column of the results, whose cells sort: its name, its unit, which way it sorts first."""

    name: str
    unit: str
    order: Literal["text", "ascending", "descending"]


def _columns(results: Results) -> tuple[Column, ...]:
    metric, timed_in = results.metric, results.timed_in
    return (
        Column("Mechanism", "", "text"),
        Column(
            f"Held-out {metric.words}",
            metric.unit,
            "descending" if metric.higher_is_better else "ascending",
        ),
        Column("Parameters", "", "ascending"),
        Column("Multiply-adds", "million an image", "ascending"),
        Column("Latency", f"ms an image, {timed_in.title}", "ascending")
        if timed_in
        else Column("Latency", "ms a batch", "ascending"),
        Column("Peak memory", "MB, PyTorch" if timed_in else "MB", "ascending"),
        Column("Training", "images/s", "descending"),
    )


_ENERGY = Column("Energy", "mJ an image", "ascending")


def results_table(results: Results) -> Markup:
    """The section with the table of everything measured; its columns sort."""
    strip = _Strip(results)
    energy = any(row.measured and row.measured.energy_mj is not None for row in results.rows)
    columns = (*_columns(results), *([_ENERGY] if energy else []))
    head = [_column(column, sorted_=index == 1) for index, column in enumerate(columns)]
    rows = [_row(row, strip, energy) for row in results.rows]
    table = element(
        "table",
        element("thead", element("tr", head)),
        element("tbody", rows),
        _majority(results, len(columns)),
        class_="results",
    )
    return section(
        "Results",
        "results",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Results, scrolls sideways"),
        note=_table_note(results),
    )  # fmt: skip


def _majority(results: Results, columns: int) -> Markup | None:
    """What naming one class for every image or pixel would score: no row should be there."""
    found = results.majority
    if found is None or results.metric != found.metric:
        return None
    name = [element("span", found.what, class_="label"), element("small", found.name)]
    cells = [element("td", "") for _ in range(columns - 2)]
    row = element(
        "tr",
        element("th", name, scope="row"),
        element("td", show_number(found.share, results.metric)),
        cells,
        class_="control",
    )
    return element("tfoot", row)


def _table_note(results: Results) -> str:
    return (
        f"Held-out {results.metric.words} is the mean over seeds with its 95 % interval; dots "
        f"are the seeds.{_sampling(results)}{_timing(results)} Choose a column's name to sort by "
        "it."
    )


def _timing(results: Results) -> str:
    """How latency, memory and energy were measured."""
    measured = next((r.measured for r in results.rows if r.measured and r.latency), None)
    if measured is None or measured.latency_ms is None:
        return ""
    latency, elsewhere = measured.latency_ms, measured.in_runtime
    batch = count(latency.batch, "image")
    if elsewhere is not None:
        batch += f" in {elsewhere.words}, by the file that the trained model was exported to"
    how = (
        f"{len(latency.processes)} processes, in each of which the mechanisms took turns pass by "
        f"pass; the interval holds those of every process, {_spread(results)}"
        if latency.processes
        else f"{latency.repeats} forward passes, with its quartiles"
    )
    energy = (
        "energy is the whole processor's while it ran"
        if measured.energy_mj is not None
        else "no energy counter can be read here"
    )
    where = " in PyTorch" if elsewhere is not None else ""
    return (
        f" Latency is the median time of {batch}, over {how}. Memory is the most held at once in a "
        f"pass{where}, beyond weights and input; {energy}.{_as_in_torch(results)}"
    )


def _as_in_torch(results: Results) -> str:
    """How far exported files were from their models."""
    found = [r.measured.in_runtime for r in results.rows if r.measured and r.measured.in_runtime]
    differences = [one.difference for one in found if one.difference is not None]
    if not differences:
        return ""
    return f" The files' outputs are within {max(differences):.0e} of the models', relatively."


def _spread(results: Results) -> str:
    """How far the medians of the processes lie apart, in the row where it is most."""
    timed = [row.latency for row in results.rows if row.latency and row.latency.processes]
    apart = max(max(one.processes) / min(one.processes) - 1 for one in timed)
    return f"whose medians differ by up to {100 * apart:.0f} %"


def _sampling(results: Results) -> str:
    """What the number of held-out images leaves open, whatever the seeds say."""
    # The binomial distribution holds for a share of images, such as accuracy.
    if results.metric != ACCURACY or results.images is None or results.rows[0].estimate is None:
        return ""
    held_out, best = results.images.test, results.rows[0].estimate.mean
    if not held_out or not 0 < best < 1:
        return ""
    half = 1.96 * sqrt(best * (1 - best) / held_out)
    return (
        f" All are measured on the same {count(held_out, 'image')}: one image is "
        f"{100 / held_out:.2g} points, and another draw of as many would move "
        f"{100 * best:.1f} % by about ±{100 * half:.1f} points."
    )


def _column(column: Column, sorted_: bool) -> Markup:
    label = [column.name, element("small", column.unit)] if column.unit else [column.name]
    button = element("button", element("span", label), type="button", data_order=column.order)
    return element("th", button, scope="col", aria_sort=column.order if sorted_ else None)


def _row(row: Row, strip: _Strip, energy: bool) -> Markup:
    return element(
        "tr",
        element("th", _name(row), scope="row", data_sort=row.label.lower()),
        element("td", _score(row, strip), data_sort=_sortable(row.estimate and row.estimate.mean)),
        _number(row.parameters, "{:,}"),
        _number(row.multiply_adds, "{:,.1f}", 1e-6),
        element("td", _latency(row), data_sort=_sortable(row.latency and row.latency.median)),
        _number(row.peak_memory_mb, "{:,.1f}"),
        _number(row.train_images_per_second, "{:,.0f}"),
        _number(row.measured and row.measured.energy_mj, "{:,.2g}") if energy else None,
        class_="control" if row.control else None,
    )


def _name(row: Row) -> list[Any]:
    subject = row.subject
    words = [subject.family or "", (subject.role or "").replace("_", " ")]
    kind = " · ".join(dict.fromkeys(filter(None, words)))
    return [
        element("span", breakable(row.label), class_="label"),
        element("small", kind or None),
        [_failure(seed, trial) for seed, trial in sorted(row.failed.items())],
    ]


def _failure(seed: int, trial: TrialRecord) -> Markup:
    reason = " ".join((trial.error or "").split())
    return element("small", f"Seed {seed} failed: {_shortened(reason)}", class_="failed")


def _score(row: Row, strip: _Strip) -> Any:
    found = row.estimate
    if found is None:
        return DASH
    number = element("span", show_number(found.mean, row.metric), class_="value")
    text = element("div", number, element("small", _interval(found, row.metric)))
    return element("div", strip.draw(row, found), text, class_="score")


def _interval(found: Estimate, metric: Metric) -> str:
    if found.low is None or found.high is None:
        return "one seed"
    return f"{show_number(found.low, metric)} to {show_number(found.high, metric)}"


def _latency(row: Row) -> list[Any]:
    latency = row.latency
    if latency is None:
        why = row.no_latency
        return [DASH, element("small", _shortened(why), class_="failed") if why else None]
    low, high = latency.interval or (latency.p25, latency.p75)
    return [
        element("span", show_ms(latency.median), class_="value"),
        element("small", f"{show_ms(low)} to {show_ms(high)}"),
    ]


def _number(value: float | None, form: str, scale_: float = 1) -> Markup:
    text = DASH if value is None else form.format(value * scale_ if scale_ != 1 else value)
    return element("td", text, data_sort=_sortable(value))


def _sortable(value: float | None) -> str | None:
    return None if value is None else repr(value)


class _Strip:
    """Scores on one scale: the seeds as dots, the interval as a line."""

    WIDTH, HEIGHT, EDGE = 120, 14, 5

    def __init__(self, results: Results) -> None:
        values = [score for row in results.rows for score in row.scores.values()] or [0.0]
        margin = 0.25 * (max(values) - min(values)) or 0.01
        least, greatest = results.metric.bounds
        self.low = max(least, min(values) - margin)
        self.high = min(greatest, max(values) + margin)

    def draw(self, row: Row, found: Estimate) -> Markup:
        middle = self.HEIGHT / 2
        line = None
        if found.low is not None and found.high is not None:
            line = element("line", x1=self._x(found.low), x2=self._x(found.high),
                           y1=middle, y2=middle)  # fmt: skip
        dots = [
            element("circle", cx=self._x(value), cy=middle, r=3) for value in row.scores.values()
        ]
        return element(
            "svg", line, dots, class_="strip", viewBox=f"0 0 {self.WIDTH} {self.HEIGHT}",
            width=self.WIDTH, height=self.HEIGHT, aria_hidden="true",
        )  # fmt: skip

    def _x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.EDGE + share * (self.WIDTH - 2 * self.EDGE), 1)


def tests_table(verdict: Verdict, metric: Metric) -> Markup | None:
    """The section with the comparisons that the verdict rests on."""
    if not verdict.comparisons:
        return None
    head = ["Compared", "Difference", "95 % interval", "No further apart", "p", "p, corrected",
            "Detectable", "Seeds", "Seeds to show it"]  # fmt: skip
    unit = unit_of_differences(metric)
    units = ["", unit, unit, f"{unit}, 90 %", "", "Holm", unit, "", "in all"]
    columns = [
        element("th", name, element("small", unit) if unit else None, scope="col")
        for name, unit in zip(head, units, strict=True)
    ]
    table = element(
        "table",
        element("thead", element("tr", columns)),
        element("tbody", [_comparison(comparison, metric) for comparison in verdict.comparisons]),
        class_="tests",
    )
    return section(
        "The tests behind the verdict",
        "tests",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Tests, scrolls sideways"),
        note="Paired: a seed means the same order of the same images for both. "
        f"{_chance(verdict)} Against controls, p asks whether a "
        "mechanism is above all of them or below all of them; difference and interval are those to "
        "the best. Intervals are not corrected for the number of comparisons; the second p values "
        "are. Detectable is the true difference that four of five such studies would show, or > "
        "and the largest that there can be. Nothing here speaks of other data, another split or "
        "another recipe.",
    )  # fmt: skip


def _chance(verdict: Verdict) -> str:
    """What the intervals and tests take as chance, in a sentence."""
    if all(made.images == 1 for made in verdict.comparisons):
        return "The seeds alone count as chance, not the choice of held-out images."
    return "Seeds and held-out images both count as chance (crossed random effects)."


def _comparison(made: Comparison, metric: Metric) -> Markup:
    interval = (
        DASH if isnan(made.low) else f"{_signed(made.low, metric)} to {_signed(made.high, metric)}"
    )
    return element(
        "tr",
        element("th", f"{made.first} against {made.second}", scope="row"),
        element("td", _signed(made.difference, metric)),
        element("td", interval),
        element("td", _distance(made.equivalent_within, metric)),
        element("td", _p(made.p)),
        element("td", _p(made.corrected_p)),
        element("td", _detectable(made, metric)),
        element("td", made.seeds),
        element("td", DASH if made.seeds_needed is None else made.seeds_needed),
        class_="shown" if made.shown else None,
    )


def _distance(distance: float, metric: Metric) -> str:
    return DASH if isnan(distance) else show_number(distance, metric)


def _detectable(made: Comparison, metric: Metric) -> str:
    """The distance, or that it is more than there can be."""
    if made.detectable > made.widest:
        return f"> {show_number(made.widest, metric)}"
    return _distance(made.detectable, metric)


def _signed(difference: float, metric: Metric) -> str:
    return _minus(show_signed(difference, metric))


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _p(value: float) -> str:
    if isnan(value):
        return DASH
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _shortened(text: str, length: int = 160) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
