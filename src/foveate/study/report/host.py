"""A host of the user's own: where it comes from, and what was put into which of its places."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.data.findings import printable
from foveate.study.records import places_changed
from foveate.study.report.markup import Markup, element, section
from foveate.study.results import Results

_COLUMNS = ("path", "n", "was", "now", "how", "options", "kept", "dropped", "note")


def host(results: Results) -> Markup | None:
    """The section on the host; None for a backbone that takes attention by name."""
    found = results.host
    if found is None:
        return None
    labels = {row.subject.attention: row.label for row in results.rows}
    changed = {labels.get(key, key): rows for key, rows in found.changes.items() if rows}
    shown = [name for name in _COLUMNS
             if any(row[name] for rows in changed.values() for row in rows)]  # fmt: skip
    head = [element("th", name, scope="col") for name in ("Compared", "places", *shown)]
    body = [_line(label, row, rows if number == 0 else None, shown)
            for label, rows in changed.items() for number, row in enumerate(rows)]  # fmt: skip
    table = element("table", element("thead", element("tr", head)), element("tbody", body),
                    class_="health")  # fmt: skip
    files = [f"{file}: SHA-256 {digest}" for file, digest in found.digests.items()]
    return section(
        "The host",
        "host",
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="What was put into the host, scrolls sideways"),
        files and element("ul", [element("li", printable(line)) for line in files],
                          class_="findings"),
        note=f"What was put into {found.host}, by place; a star stands for any number.",
    )  # fmt: skip


def _line(
    label: str, row: Mapping[str, str], whole: list[dict[str, str]] | None, shown: list[str]
) -> Markup:
    """A row of the table; the first one of a thing compared names it and counts its places."""
    return element(
        "tr",
        element("th", label if whole else "", scope="row"),
        element("td", places_changed(whole) if whole else ""),
        [element("td", row[name]) for name in shown],
    )
