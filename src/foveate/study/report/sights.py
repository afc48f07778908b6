"""What one query sees in each mechanism, as heat maps."""

from __future__ import annotations

from typing import Any

from foveate.study.report.markup import Markup, count, element, section
from foveate.study.report.pictures import heat_map, picture, scale
from foveate.study.results import Results, Row


def sights(results: Results) -> Markup | None:
    """The section with a card for every trained model that was looked into."""
    seen = [row for row in results.rows if row.view]
    if not seen:
        return None
    images = seen[0].view.get("images")
    legend = element(
        "p",
        element("span", "nothing"),
        element("img", src=scale(), alt="from dark violet to yellow", class_="scale"),
        element("span", "the most"),
        class_="legend",
    )
    return section(
        "What one query sees",
        "sight",
        legend,
        element("div", _image_card(seen[0]), [_sight_card(row) for row in seen], class_="sights"),
        note="Computed from the trained models: how much each position counts for the output at "
        "the ringed one, in the first block of each stage"
        + (f", averaged over {count(images, 'held-out image')}" if images else "")
        + ". Attention weights are averaged over heads; where a mechanism has no dense weights, "
        "the norm of the output's gradient is shown, which includes the mechanism's convolutions. "
        "Each map has its own top; colour follows the square root, so that small shares show.",
    )


def _image_card(row: Row) -> Markup | None:
    pixels = row.view.get("image")
    if not pixels:
        return None
    return element(
        "figure",
        element("div", _map_image(picture(pixels), len(pixels), len(pixels[0]), None,
                                  "One of the held-out images", "big")),
        element("figcaption", "One of the images", element("small", _size(pixels))),
    )  # fmt: skip


def _sight_card(row: Row) -> Markup:
    layers = row.view.get("layers") or []
    caption: list[Any] = [element("span", row.label, class_="label")]
    if not layers:
        empty = element("div", "nothing stands in its slot", class_="empty")
        return element("figure", empty, element("figcaption", caption))
    measures = {"weights": "attention weights", "gradient": "gradient"}
    first, *rest = layers
    measure = measures.get(first.get("measure"), str(first.get("measure")))
    top = max(max(line) for line in first["map"])
    about = f"{measure}, {_size(first['map'])}, largest share {100 * top:.3g} %"
    return element(
        "figure",
        element("div", _layer_image(row.label, first, "big")),
        rest and element("div", [_layer_image(row.label, layer) for layer in rest], class_="rest"),
        element("figcaption", caption, element("small", about)),
    )  # fmt: skip


def _layer_image(label: str, layer: dict[str, Any], class_: str = "") -> Markup:
    values, query = layer["map"], layer["query"]
    alt = f"What the query at row {query[0]}, column {query[1]} sees in {label}, {_size(values)}"
    return _map_image(heat_map(values), len(values), len(values[0]), query, alt, class_)


def _map_image(
    source: str, height: int, width: int, query: list[int] | None, alt: str, class_: str
) -> Markup:
    ring = None
    if query is not None:
        place = {"cx": query[1] + 0.5, "cy": query[0] + 0.5, "r": max(0.32, 0.03 * width)}
        ring = element(
            "svg",
            element("circle", class_="halo", **place),
            element("circle", **place),
            viewBox=f"0 0 {width} {height}",
            aria_hidden="true",
        )
    image = element("img", src=source, alt=alt, width=width, height=height)
    return element("div", image, ring, class_=f"map {class_}".strip(),
                   style=f"aspect-ratio:{width}/{height}")  # fmt: skip


def _size(rows: list[Any]) -> str:
    return f"{len(rows)} × {len(rows[0])}"
