"""Segmentation's pictures: the images on which rows differ most, painted with their labels."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.data.findings import printable
from foveate.study.disputed import Disputed
from foveate.study.records import TRUTH, Records
from foveate.study.report.attention_maps import framed
from foveate.study.report.markup import Markup, element, section
from foveate.study.report.pictures import picture
from foveate.study.results import Results

_ROWS = 6
_PAINT = 0.65
"""How much of a pixel's color is its class's."""
NAMED = 30

Color = tuple[int, int, int]


def labelled_pictures(
    results: Results, found: Sequence[Disputed], pictures: Mapping[int, Any]
) -> Markup | None:
    """The section with those images.

    Args:
        results: of the study.
        found: the images, the most disputed first.
        pictures: pixels of each by its number.
    """
    records, record = Records(results.root), results.data
    if record is None or record.masks is None:
        return None
    colors = palette(record.masks.colors, len(record.classes))
    labels = {row.label: records.overlays(row.subject.attention) for row in results.rows}
    truth = records.overlays(TRUTH)
    key = [named(color, name) for color, name in zip(colors, record.classes[:NAMED], strict=False)]
    figures = [
        _figure(one, pictures.get(one.image), truth.get(one.image), labels, colors) for one in found
    ]
    return section(
        "Where they differ",
        "differ",
        element("ul", key, class_="colors"),
        element("div", figures, class_="differ labelled"),
        note="Held-out images whose pixels some find more of than others, painted with the labels "
        "that a trained model of the first seed gives, the best and the worst on the image first; "
        "the share is that of the pixels whose class is found, over all seeds. Unpainted pixels of "
        "the mask count nowhere.",
    )


def named(color: Color, name: str) -> Markup:
    """A color of the key with its class."""
    patch = element("img", src=picture([[list(color)]]), alt="", width=12, height=12)
    return element("li", patch, f" {name}")


def palette(given: Sequence[Sequence[int]] | None, classes: int) -> list[Color]:
    """The colors of a set's own list of classes, or as many that are easily told apart."""
    if given is not None and len(given) == classes:
        return [(int(red), int(green), int(blue)) for red, green, blue in given]
    made = []
    for number in range(classes):
        hue, light = (0.61803 * number) % 1, (0.45, 0.62, 0.32)[number % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.75)
        made.append((round(255 * red), round(255 * green), round(255 * blue)))
    return made


def painted(pixels: np.ndarray, labels: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """The image (h, w, 3), in gray under the colors of its labels (h, w), where these count."""
    gray = np.repeat(pixels.astype(float).mean(2, keepdims=True), 3, axis=2)
    table = np.asarray(colors, dtype=float)
    counted = labels < len(colors)
    over = table[np.where(counted, labels, 0)]
    mixed = (1 - _PAINT) * gray + _PAINT * over
    return np.where(counted[..., None], mixed, gray).round().astype(np.uint8)


def best_and_worst(one: Disputed) -> list[str]:
    """The rows to show of an image, the best first; of many the best and the worst."""
    order = sorted(one.found, key=lambda label: -one.found[label])
    if len(order) > _ROWS:
        order = order[: _ROWS // 2] + order[-(_ROWS - _ROWS // 2) :]
    return order


def _figure(
    one: Disputed,
    pixels: Any,
    truth: np.ndarray | None,
    labels: Mapping[str, Mapping[int, np.ndarray]],
    colors: Sequence[Color],
) -> Markup:
    order = best_and_worst(one)
    name = printable(one.name)
    image = np.asarray(pixels if pixels is not None else [[0]], dtype=np.uint8)
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    shown: list[tuple[str, np.ndarray | None]] = [("image", image)] if pixels is not None else []
    fits = truth is not None and truth.shape == image.shape[:2]
    if fits and truth is not None:
        shown.append(("its mask", painted(image, truth, colors)))
    for label in order:
        given = labels.get(label, {}).get(one.image)
        said = f"{label} {100 * one.found[label]:.0f} %"
        there = given is not None and given.shape == image.shape[:2]
        shown.append((said, painted(image, given, colors) if there else None))
    figures = [_panel(name, said, panel) for said, panel in shown]
    caption = element("figcaption", element("small", name))
    return element("figure", caption, element("div", figures, class_="looks"))


def _panel(name: str, said: str, pixels: np.ndarray | None) -> Markup:
    image = None
    if pixels is not None:
        height, width = pixels.shape[:2]
        image = framed(picture(pixels.tolist()), height, width, None, f"{name}: {said}")
    return element("figure", image, element("small", said))
