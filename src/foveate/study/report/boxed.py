"""Detection's pictures: the images on which rows differ most, with the boxes that are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.data.findings import printable
from foveate.study.disputed import Disputed
from foveate.study.records import TRUTH, Records
from foveate.study.report.labelled import NAMED, Color, best_and_worst, named, palette
from foveate.study.report.markup import Markup, element, section
from foveate.study.report.pictures import picture
from foveate.study.results import Results


def boxed_pictures(
    results: Results, found: Sequence[Disputed], pictures: Mapping[int, Any]
) -> Markup | None:
    """The section with those images.

    Args:
        results: of the study.
        found: the images, the most disputed first.
        pictures: pixels of each by its number.
    """
    records = Records(results.root)
    colors = palette(None, len(results.classes))
    boxes = {row.label: records.overlays(row.subject.attention) for row in results.rows}
    truth = records.overlays(TRUTH)
    key = [named(*pair) for pair in zip(colors, results.classes[:NAMED], strict=False)]
    figures = [
        _figure(one, pictures[one.image], truth.get(one.image), boxes, colors)
        for one in found
        if one.image in pictures
    ]
    return section(
        "Where they differ",
        "differ",
        element("ul", key, class_="colors"),
        element("div", figures, class_="differ labelled"),
        note="Held-out images in which some find more than others: what is labelled, and what a "
        "trained model of the first seed finds, the best and the worst on the image first. Of its "
        "boxes as many are shown as are labelled, those of highest score; a box whose class and "
        "place are wrong (an IoU below .50) is dashed. The figure is the AP50 of the image by "
        "itself, over all seeds.",
    )


def _figure(
    one: Disputed,
    pixels: Any,
    truth: np.ndarray | None,
    boxes: Mapping[str, Mapping[int, np.ndarray]],
    colors: Sequence[Color],
) -> Markup:
    name = printable(one.name)
    shown = [("labelled", truth)]
    shown += [
        (f"{label} {100 * one.found[label]:.0f} %", boxes.get(label, {}).get(one.image))
        for label in best_and_worst(one)
    ]
    panels = [_panel(name, said, pixels, those, colors) for said, those in shown]
    caption = element("figcaption", element("small", name))
    return element("figure", caption, element("div", panels, class_="looks"))


def _panel(
    name: str, said: str, pixels: Any, boxes: np.ndarray | None, colors: Sequence[Color]
) -> Markup:
    height, width = len(pixels), len(pixels[0])
    image = element("img", src=picture(pixels), alt=f"{name}: {said}", width=width, height=height)
    over = None
    if boxes is not None:
        drawn = [_box(row, colors) for row in boxes]
        over = element("svg", drawn, viewBox=f"0 0 {width} {height}", aria_hidden="true")
    return element("figure", element("div", image, over, class_="map"), element("small", said))


def _box(row: np.ndarray, colors: Sequence[Color]) -> Markup:
    x1, y1, x2, y2 = (round(float(value), 1) for value in row[:4])
    return element(
        "rect",
        x=x1,
        y=y1,
        width=round(x2 - x1, 1),
        height=round(y2 - y1, 1),
        stroke="#{:02x}{:02x}{:02x}".format(*colors[int(row[4]) % len(colors)]),
        class_=None if row[6] else "wrong",
    )
