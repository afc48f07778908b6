"""What is to be known of the images: where from, how split, what was decided and left out."""

from __future__ import annotations

from typing import Any

from foveate.data.findings import printable
from foveate.data.record import SetRecord
from foveate.data.sources.base import SPLITS
from foveate.study.report.markup import Markup, count, element, section
from foveate.study.results import Results


def data(results: Results) -> Markup | None:
    """The section on the images."""
    record = results.data
    if record is None:
        return None
    facts = {
        "images": "; ".join(_splits(record)),
        "classes": f"{len(record.classes):,}",
        "channels": record.channels,
        "augmentation": _augmentation(results.plan.augment, record),
        "normalized by": _moments(results, record),
    }
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in facts.items()
        if value
    ]
    warnings = [f"warning: {line}" for line in record.findings.warnings]  # at the top of the page
    lines = [line for line in record.findings.lines() if line not in map(printable, warnings)]
    return section(
        "The images",
        "data",
        element("table", element("tbody", rows), class_="plain"),
        lines and element("ul", [element("li", line) for line in lines], class_="findings"),
        note="What was found in the images, and what was decided for you.",
    )


def _splits(record: SetRecord) -> list[str]:
    named = {"train": "to train on", "test": "held out"}
    return [
        f"{len(record.splits[split].labels):,} {named.get(split, split)}"
        for split in SPLITS
        if split in record.splits
    ]


def _augmentation(asked: str, record: SetRecord) -> str:
    if asked != "auto":
        return f"{asked}, as asked"
    made = record.augmentation
    mirrored = "mirrored" if made.mirror else "not mirrored"
    why = f" ({made.reason})" if made.reason else ""
    return f"{made.kind}, {mirrored}: decided from the images{why}"


def _moments(results: Results, record: SetRecord) -> Any:
    found = record.moments if results.host is None else results.host.normalize
    if not found.mean:
        return None
    mean, std = (
        ", ".join(f"{value:.3f}" for value in values) for values in (found.mean, found.std)
    )
    if not found.images:
        return f"mean {mean} and deviation {std}, which the host states"
    return f"mean {mean} and deviation {std} of {count(found.images, 'training image')}"
