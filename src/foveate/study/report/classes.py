"""Class by class: what share of each is found, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from foveate.average_precision import AREAS
from foveate.metrics import Metric
from foveate.study.kinds import MASK_METRICS
from foveate.study.pixel_predictions import iou
from foveate.study.report.attention_maps import framed
from foveate.study.report.markup import Markup, element, section
from foveate.study.report.pictures import heat_map
from foveate.study.results import Results, Row

MOST_CLASSES, MOST_PAIRS, MOST_IN_MATRIX = 20, 10, 256


class Confused(NamedTuple):
    """A class that is taken for another.

    Attributes:
        true: the class.
        predicted: what it is taken for.
        share: of its images, over all rows and seeds.
        least: the row in which it happens least.
        most: the row in which it happens most.
    """

    true: int
    predicted: int
    share: float
    least: tuple[str, float]
    most: tuple[str, float]


def classes(results: Results) -> Markup | None:
    """The section with recall by class and confusion."""
    rows = [row for row in results.rows if row.confusion is not None]
    names = results.classes
    if not rows or not names:
        boxes = _object_classes([row for row in results.rows if row.boxes], results.metric, names)
        return boxes or _pixel_classes([row for row in results.rows if row.pixels], names)
    chosen = most_different(rows, MOST_CLASSES)
    which = _which(chosen, names)
    return section(
        "Class by class",
        "classes",
        _recalls(rows, names, chosen),
        _pairs(rows, names),
        _matrices(rows, len(names)),
        note="The share of each class's held-out images that is found (recall), in percent over "
        f"all seeds.{which}",
    )


def _which(chosen: Sequence[int], names: Sequence[str]) -> str:
    """Which classes are shown, in words, where not all are."""
    if len(chosen) == len(names):
        return ""
    return f" Shown are the {len(chosen)} of {len(names):,} in which the rows differ most."


def _pixel_classes(rows: Sequence[Row], names: Sequence[str]) -> Markup | None:
    """The section with the IoU of each class, where classes are of pixels."""
    if not rows or not names:
        return None
    found = np.stack([iou(sum(one.whole for one in row.pixels)) for row in rows])
    chosen = _most_apart(found, MOST_CLASSES)
    labelled = rows[0].pixels[0].whole[2]
    shares = [f"{100 * labelled[k] / max(labelled.sum(), 1):.2g} %" for k in chosen]
    which = _which(chosen, names)
    return section(
        "Class by class",
        "classes",
        _table(rows, found, names, chosen, ("share of the pixels", shares), "IoU by class"),
        note="Intersection over union of each class, in percent: of the pixels that have the class "
        f"or are said to have it, those of which both is true, over all seeds.{which}",
    )


def _object_classes(rows: Sequence[Row], metric: Metric, names: Sequence[str]) -> Markup | None:
    """The section with the average precision of each class, and of objects by their size."""
    if not rows or not names:
        return None
    found = np.stack([_precision(row, metric).mean(1) for row in rows])
    evidence = rows[0].boxes[0].of_metric(metric)
    objects = np.bincount(evidence.objects[:, 1], minlength=len(names))
    chosen = _most_apart(found, MOST_CLASSES)
    sizes = [area for area in AREAS if area != "all"]
    by_size = np.stack([[_mean(_precision(row, metric, area)) for area in sizes] for row in rows])
    counts = [f"{evidence.objects[:, 2 + list(AREAS).index(area)].sum():,}" for area in sizes]
    what = "masks" if metric in MASK_METRICS else "boxes"
    return section(
        "Class by class",
        "classes",
        _table(rows, found, names, chosen,
               ("held-out objects", [f"{objects[k]:,}" for k in chosen]), "AP by class"),
        _table(rows, by_size, sizes, range(len(sizes)), ("held-out objects", counts),
               "AP by size", "Size"),
        note=f"COCO's average precision of {what}, over IoU thresholds .50 to .95, in percent, the "
        "mean over seeds: of each class, and of objects of less than 32x32, up to 96x96 and more "
        f"pixels of the original images.{_which(chosen, names)}",
    )  # fmt: skip


def _precision(row: Row, metric: Metric, area: str = "all") -> np.ndarray:
    """(K, T) AP of every class at every threshold, the mean over seeds."""
    return np.mean([one.of_metric(metric).precision(area) for one in row.boxes], axis=0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def most_different(rows: Sequence[Row], most: int) -> list[int]:
    """Classes by how far apart their recalls are from row to row, in their own order."""
    return _most_apart(_stacked(rows), most)


def _most_apart(recalls: np.ndarray, most: int) -> list[int]:
    known = np.flatnonzero(~np.isnan(recalls).all(axis=0))
    apart = np.nanmax(recalls[:, known], axis=0) - np.nanmin(recalls[:, known], axis=0)
    return sorted(int(known[place]) for place in np.argsort(-apart, kind="stable")[:most])


def _stacked(rows: Sequence[Row]) -> np.ndarray:
    """(rows, K) recalls."""
    return np.stack([recalls for row in rows if (recalls := row.recalls) is not None])


def _recalls(rows: Sequence[Row], names: Sequence[str], chosen: Sequence[int]) -> Markup:
    images = rows[0].confusion
    counts = [] if images is None else [f"{int(images[k].sum() / len(rows[0].predictions)):,}"
                                        for k in chosen]  # fmt: skip
    first = "held-out images", counts
    return _table(rows, _stacked(rows), names, chosen, first, "Recall by class")


def _table(
    rows: Sequence[Row],
    shares: np.ndarray,
    names: Sequence[str],
    chosen: Sequence[int],
    first: tuple[str, Sequence[str]],
    title: str,
    of: str = "Class",
) -> Markup:
    """A line for each row with the ``shares`` (rows, K) of classes, below a line of sizes."""
    head = [element("th", of), *(element("th", names[k], scope="col") for k in chosen)]
    body = [element("tr", element("th", first[0], scope="row"),
                    [element("td", size) for size in first[1]])]  # fmt: skip
    for row, mine in zip(rows, shares, strict=True):
        cells = [_recall(mine[k]) for k in chosen]
        body.append(
            element("tr", element("th", row.label, scope="row"), cells,
                    class_="control" if row.control else None)
        )  # fmt: skip
    table = element("table", element("thead", element("tr", head)), element("tbody", body),
                    class_="recalls")  # fmt: skip
    return element("div", table, class_="scroll", tabindex="0", role="region",
                   aria_label=f"{title}, scrolls sideways")  # fmt: skip


def _recall(value: float) -> Markup:
    if np.isnan(value):
        return element("td", "–")
    return element("td", f"{100 * value:.0f}", class_=f"shade{min(int(10 * value), 9)}")


def confusions(rows: Sequence[Row], most: int) -> list[Confused]:
    """The classes most often taken for one another, over all rows."""
    counts = {row.label: row.confusion for row in rows}
    shares = {
        label: found / np.maximum(found.sum(axis=1, keepdims=True), 1)
        for label, found in counts.items()
        if found is not None
    }
    mean = np.mean(list(shares.values()), axis=0)
    np.fill_diagonal(mean, 0)
    pairs = np.argsort(-mean, axis=None, kind="stable")[:most]
    found = []
    for true, predicted in zip(*np.unravel_index(pairs, mean.shape), strict=True):
        if mean[true, predicted] > 0:
            each = sorted((float(share[true, predicted]), label) for label, share in shares.items())
            (low, least), (high, top) = each[0], each[-1]
            found.append(Confused(int(true), int(predicted), float(mean[true, predicted]),
                                  (least, low), (top, high)))  # fmt: skip
    return found


def _pairs(rows: Sequence[Row], names: Sequence[str]) -> Markup | None:
    found = confusions(rows, MOST_PAIRS)
    if not found:
        return None
    head = [element("th", name, scope="col") for name in
            ("Class", "Taken for", "Share of its images", "Least in", "Most in")]  # fmt: skip
    body = [
        element(
            "tr",
            element("th", names[one.true], scope="row"),
            element("td", names[one.predicted]),
            element("td", f"{100 * one.share:.0f} %"),
            element("td", f"{one.least[0]}, {100 * one.least[1]:.0f} %"),
            element("td", f"{one.most[0]}, {100 * one.most[1]:.0f} %"),
        )
        for one in found
    ]
    table = element("table", element("thead", element("tr", head)), element("tbody", body),
                    class_="pairs")  # fmt: skip
    return element(
        "details",
        element("summary", "Classes most often taken for another"),
        element("div", table, class_="scroll", tabindex="0", role="region",
                aria_label="Confused classes, scrolls sideways"),
    )  # fmt: skip


def _matrices(rows: Sequence[Row], count: int) -> Markup:
    if count > MOST_IN_MATRIX:
        return element("p", f"No confusion matrices are drawn of {count:,} classes.", class_="note")
    figures = []
    for row in rows:
        counts = row.confusion
        if counts is None:
            continue
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        alt = f"Confusion matrix of {row.label}, {count} by {count}"
        image = framed(heat_map(shares.round(4).tolist()), count, count, None, alt)
        figures.append(element("figure", image, element("figcaption", row.label)))
    return element(
        "details",
        element("summary", "Confusion matrices"),
        element("p", "A row is a true class, a column what it is taken for, in the order of the "
                "classes; from dark violet (nothing) to yellow (all). On the diagonal: found.",
                class_="note"),
        element("div", figures, class_="matrices"),
    )  # fmt: skip
