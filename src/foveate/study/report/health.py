"""What the reader should know before believing a number: health of trials, failures, equal cost."""

from __future__ import annotations

from foveate.data.findings import printable
from foveate.study.matching import matched_lines
from foveate.study.report.markup import Markup, element, section
from foveate.study.results import Results, Row


def warnings(results: Results) -> Markup | None:
    """The sentences that warn, before the table; None where there are none."""
    said = results.warnings
    if not said:
        return None
    return element(
        "section",
        element("h2", "Before you believe it", id="warnings-title"),
        element("ul", [element("li", printable(sentence)) for sentence in said], class_="warnings"),
        id="warnings",
        aria_labelledby="warnings-title",
    )


def health(results: Results) -> Markup | None:
    """The section with what was decided, and the state of every row's trials."""
    rows = [_row(row) for row in results.rows if row.health or row.failed or row.tuning]
    matched = [row.matched for row in results.rows if row.matched is not None]
    of_images = () if results.data is None else results.data.findings.notes  # said of the images
    lines = [note for note in results.notes if note not in of_images] + matched_lines(matched)
    if not rows and not lines:
        return None
    head = [element("th", name, scope="col") for name in
            ("Compared", "Learned", "At chance", "Diverged", "Still rising", "Failed",
             "Learning rate")]  # fmt: skip
    table = element("table", element("thead", element("tr", head)), element("tbody", rows),
                    class_="health")  # fmt: skip
    return section(
        "The trials",
        "trials",
        rows and element("div", table, class_="scroll", tabindex="0", role="region",
                         aria_label="Health of the trials, scrolls sideways"),
        lines and element("ul", [element("li", line) for line in lines], class_="findings"),
        note="Counts of trials. One at chance or diverged did not learn: the verdict does not "
        "compare its mechanism. One that still rose at its end would have gained from more epochs.",
    )  # fmt: skip


def _row(row: Row) -> Markup:
    states = list(row.health.values())
    counts = [
        sum(state.learned for state in states),
        sum(state.at_chance for state in states),
        sum(state.diverged for state in states),
        sum(state.rising for state in states),
    ]
    cells = [element("td", count or "–") for count in counts] if states else [
        element("td", "–") for _ in counts
    ]  # fmt: skip
    return element(
        "tr",
        element("th", row.label, scope="row"),
        cells,
        element("td", len(row.failed) or "–"),
        element("td", _learning_rate(row)),
    )


def _learning_rate(row: Row) -> str:
    if row.tuning is not None:
        tried = ", ".join(f"{one.lr:g}" for one in row.tuning.tried)
        edge = ", at the edge of the grid" if row.tuning.at_edge else ""
        return f"{row.tuning.lr:g} of {tried} ({row.tuning.seconds:,.0f} s{edge})"
    rates = sorted({trial.lr for trial in row.done.values() if trial.lr is not None})
    return ", ".join(f"{rate:g}" for rate in rates) or "–"
