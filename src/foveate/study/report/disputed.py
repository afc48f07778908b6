"""The images on which the mechanisms differ most, with what one query attends to in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.data.findings import printable
from foveate.study.disputed import Disputed, disputed
from foveate.study.records import ImageMap, Records
from foveate.study.report.attention_maps import framed, place_word
from foveate.study.report.boxed import boxed_pictures
from foveate.study.report.labelled import labelled_pictures
from foveate.study.report.markup import Markup, element, section
from foveate.study.report.pictures import heat_map, picture
from foveate.study.results import Results

_MAPS = 6


def disputed_images(results: Results) -> Markup | None:
    """The section with those images."""
    found = disputed(results)
    if not found:
        return None
    records = Records(results.root)
    pictures = records.pictures()
    if results.data is not None and results.data.masks is not None:
        return labelled_pictures(results, found, pictures)
    if results.data is not None and results.data.objects is not None:
        return boxed_pictures(results, found, pictures)
    maps = {
        row.label: {one.image: one for one in row.maps.single}
        for row in results.rows
        if row.maps is not None and row.maps.single
    }
    seen = any(one.image in of for one in found for of in maps.values())
    note = (
        "Held-out images of which some find the class and others do not. The share is that of the "
        "seeds that find it; beside it stands what is named most often instead."
    )
    if seen:
        note += (
            " Below each image: what the ringed query in its middle attends to in the first "
            f"{place_word(results)}, in up to {_MAPS} of the trained models, the best and the "
            "worst on this image first."
        )
    return section(
        "Where they differ",
        "differ",
        element("div", [_figure(one, pictures, maps) for one in found], class_="differ"),
        note=note,
    )


def _figure(
    one: Disputed, pictures: Mapping[int, Any], maps: Mapping[str, Mapping[int, ImageMap]]
) -> Markup:
    pixels = pictures.get(one.image)
    name = printable(one.name)
    shown = pixels and element(
        "div",
        framed(picture(pixels), len(pixels), len(pixels[0]), None, f"Image {name}", "big"),
        class_="photo",
    )
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            element("td", f"{100 * share:.0f} %"),
            element("td", one.instead.get(label, ""), class_="instead"),
            class_="right" if share > 0.5 else "wrong",
        )
        for label, share in sorted(one.found.items(), key=lambda pair: -pair[1])
    ]
    caption = element("figcaption", one.label, element("small", name or f"image {one.image}"))
    table = element("table", element("tbody", rows), class_="plain")
    several = len(rows) > 12
    return element(
        "figure",
        element("div", shown, element("div", caption, _maps(one, maps)), class_="beside"),
        element("details", element("summary", f"All {len(rows)}"), table) if several else table,
    )


def _maps(one: Disputed, maps: Mapping[str, Mapping[int, ImageMap]]) -> Markup | None:
    order = sorted(one.found, key=lambda label: -one.found[label])
    chosen = [label for label in order if one.image in maps.get(label, {})]
    if len(chosen) > _MAPS:
        chosen = chosen[: _MAPS // 2] + chosen[-(_MAPS - _MAPS // 2) :]
    figures = []
    for label in chosen:
        found = maps[label][one.image]
        alt = (
            f"What {label} attends to in {printable(one.name)} for the query at row "
            f"{found.query[0]}, column {found.query[1]}"
        )
        image = framed(heat_map(found.map), len(found.map), len(found.map[0]), found.query, alt)
        figures.append(element("figure", image, element("small", label)))
    return element("div", figures, class_="looks") if figures else None
