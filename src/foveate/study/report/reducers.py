"""What each reducer costs and scores at each of its settings, beside the model that it reduces."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.study.numbers import show_ms, show_number, show_signed, unit_of_differences
from foveate.study.report.markup import Markup, breakable, element, section
from foveate.study.results import Results, Row

_DASH = "–"


def by_reducer(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each reducer that have finished, by its name, the costliest setting first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.subject.role == "reducer" and row.estimate is not None:
            found.setdefault(row.subject.mechanism, []).append(row)
    for each in found.values():
        each.sort(key=_cost, reverse=True)
    return dict(sorted(found.items()))


def reducers(results: Results) -> Markup | None:
    """The section with a table for the settings of every reducer; None where nothing reduces."""
    found = by_reducer(results.rows)
    if not found:
        return None
    whole = next((row for row in results.rows if row.subject.mechanism == "none"), None)
    metric = results.metric
    columns = (
        ("Reducer", None),
        ("Setting", None),
        (f"Held-out {metric.words}", metric.unit),
        ("Difference", unit_of_differences(metric)),
        ("Multiply-adds", "of the whole model"),
        ("Latency", "of the whole model"),
        ("Latency", "ms an image" if results.timed_in else "ms a batch"),
    )
    head = [
        element("th", name, element("small", unit) if unit else None, scope="col")
        for name, unit in columns
    ]
    body = [element("tbody", _rows(name, rows, whole)) for name, rows in found.items()]
    table = element("table", element("thead", element("tr", head)), body, class_="tests")
    return section(
        "Reducers",
        "reducers",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Reducers, scrolls sideways"),
        note="The settings of each reducer, from the costliest to the cheapest. Differences and "
        "shares are to the whole model, trained as they were; a share of latency above that of "
        "multiply-adds says how much of what is saved in arithmetic is not saved in time.",
    )  # fmt: skip


def _rows(name: str, rows: Sequence[Row], whole: Row | None) -> list[Markup]:
    """The table's rows of one reducer."""
    first = element("th", breakable(name), scope="rowgroup", rowspan=len(rows))
    return [
        element("tr", first if number == 0 else None, element("td", _setting(row)),
                [element("td", cell) for cell in _cells(row, whole)])
        for number, row in enumerate(rows)
    ]  # fmt: skip


def _cells(row: Row, whole: Row | None) -> list[str]:
    assert row.estimate is not None
    metric, latency = row.metric, row.latency
    before = None if whole is None or whole.estimate is None else whole.estimate.mean
    timed = whole.latency.median if whole is not None and whole.latency is not None else None
    return [
        show_number(row.estimate.mean, metric),
        _DASH if before is None
        else show_signed(row.estimate.mean - before, metric).replace("-", "−"),
        _share(row.multiply_adds, whole and whole.multiply_adds),
        _share(latency and latency.median, timed),
        _DASH if latency is None else show_ms(latency.median),
    ]  # fmt: skip


def _setting(row: Row) -> str:
    """The options alone: the reducer's name stands beside them."""
    label, name = row.label, row.subject.mechanism
    if label == name:
        return "as it is by default"
    return label.removeprefix(f"{name}(").removesuffix(")") if label.startswith(name) else label


def _share(cost: float | None, whole: float | None) -> str:
    return f"{cost / whole:.2f}" if cost and whole else _DASH


def _cost(row: Row) -> float:
    return row.multiply_adds or 0
