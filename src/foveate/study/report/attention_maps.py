"""Attention maps of the trained models: what one query attends to in each, as heat maps."""

from __future__ import annotations

from typing import Any

from foveate.study.records import AttentionMaps, LayerMap
from foveate.study.report.markup import Markup, count, element, section
from foveate.study.report.pictures import heat_map, picture, scale
from foveate.study.results import Results, Row


def attention_maps(results: Results) -> Markup | None:
    """The section with a figure for every trained model whose maps were computed."""
    found = [(row, row.maps) for row in results.rows if row.maps is not None]
    if not found:
        return None
    _, first = found[0]
    legend = element(
        "p",
        element("span", "nothing"),
        element("img", src=scale(), alt="from dark violet to yellow", class_="scale"),
        element("span", "the most"),
        class_="legend",
    )
    figures = [_figure(row, maps) for row, maps in found]
    return section(
        "Attention maps",
        "attention-maps",
        legend,
        element("div", _image(first), figures, class_="maps"),
        note="Computed from the trained models: how much each position counts for the output at "
        f"the ringed query, in the first {place_word(results)} of each stage, averaged over "
        f"{count(first.images, 'held-out image')}. Attention weights are averaged over heads; "
        "where a mechanism has no dense weights, the norm of the output's gradient is shown, which "
        "includes the mechanism's convolutions. Each map has its own top; colour follows the "
        "square root, so that small shares show.",
    )


def place_word(results: Results) -> str:
    """What stands in the host: blocks in ours, places of any kind in a model of the user's."""
    return "block" if results.host is None else "changed place"


def _image(maps: AttentionMaps) -> Markup:
    pixels = maps.image
    return element(
        "figure",
        element("div", framed(picture(pixels), len(pixels), len(pixels[0]), None,
                                  "One of the held-out images", "big")),
        element("figcaption", "One of the images", element("small", _size(pixels))),
    )  # fmt: skip


def _figure(row: Row, maps: AttentionMaps) -> Markup:
    caption: list[Any] = [element("span", row.label, class_="label")]
    if not maps.layers:
        empty = element("div", "nothing stands in its place", class_="empty")
        return element("figure", empty, element("figcaption", caption))
    first, *rest = maps.layers
    measure = {"weights": "attention weights"}.get(first.measure, first.measure)
    top = max(max(line) for line in first.map)
    about = f"{measure}, {_size(first.map)}, largest share {100 * top:.3g} %"
    return element(
        "figure",
        element("div", _layer_image(row.label, first, "big")),
        rest and element("div", [_layer_image(row.label, layer) for layer in rest], class_="rest"),
        element("figcaption", caption, element("small", about)),
    )


def _layer_image(label: str, layer: LayerMap, class_: str = "") -> Markup:
    values, query = layer.map, layer.query
    alt = (
        f"Attention map of {label} for the query at row {query[0]}, column {query[1]}, "
        f"{_size(values)}"
    )
    return framed(heat_map(values), len(values), len(values[0]), query, alt, class_)


def framed(
    source: str, height: int, width: int, query: tuple[int, int] | None, alt: str, class_: str = ""
) -> Markup:
    """A picture of ``height`` x ``width`` positions, with a ring around a query."""
    ring = None
    if query is not None:
        spot = {"cx": query[1] + 0.5, "cy": query[0] + 0.5, "r": max(0.32, 0.03 * width)}
        ring = element(
            "svg",
            element("circle", class_="halo", **spot),
            element("circle", **spot),
            viewBox=f"0 0 {width} {height}",
            aria_hidden="true",
        )
    image = element("img", src=source, alt=alt, width=width, height=height)
    return element("div", image, ring, class_=f"map {class_}".strip())


def _size(rows: list[Any]) -> str:
    return f"{len(rows)} × {len(rows[0])}"
