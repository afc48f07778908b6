"""A page with what was found: one HTML file that opens offline, with small pictures in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from foveate._files import write_text
from foveate._version import __version__
from foveate.data.findings import LeftOut, printable
from foveate.prediction.base import Shown
from foveate.saved.info import ModelInfo
from foveate.study.report.labelled import palette
from foveate.study.report.markup import Markup, count, document, element, section

PAGE = "index.html"
MOST = 500
"""Images that the page shows."""
_NAMED = 100
_CLASSES = 60


def write_page(
    out: Path,
    title: str,
    info: ModelInfo,
    shown: Sequence[Shown],
    images: int,
    left_out: Sequence[LeftOut],
    said: Sequence[str],
) -> Path:
    """Put the page into ``out``.

    Args:
        out: the folder of results.
        title: what the model is called.
        info: what its file says of it.
        shown: images, at most :data:`MOST`.
        images: how many were predicted.
        left_out: those that could not be read.
        said: what there is and what was decided, a line each.
    """
    main = element(
        "main",
        _header(title, info, images, left_out),
        element("ul", [element("li", line) for line in said], class_="said") if said else None,
        _unreadable(left_out),
        _key(info),
        _gallery(shown, images),
        element("p", f"Made by Foveate {__version__}.", class_="note"),
        class_="page",
    )
    style = (files(__package__) / "assets" / "predictions.css").read_text(encoding="utf-8")
    path = out / PAGE
    write_text(path, document(f"{printable(title)} · predictions", style, main))
    return path


def _header(title: str, info: ModelInfo, images: int, left_out: Sequence[LeftOut]) -> Markup:
    height, width = info.input.size
    facts = {
        "Task": info.task,
        "Images": f"{images:,}" + (f", {len(left_out):,} unreadable" if left_out else ""),
        "Classes": f"{len(info.classes):,}",
        "Trained at": f"{height} × {width}",
    }
    return element(
        "header",
        element("p", "Foveate predictions", class_="eyebrow"),
        element("h1", printable(title)),
        element(
            "dl",
            [element("div", element("dt", name), element("dd", value))
             for name, value in facts.items()],
            class_="facts",
        ),
    )  # fmt: skip


def _unreadable(left_out: Sequence[LeftOut]) -> Markup | None:
    if not left_out:
        return None
    lines = [f"{printable(one.name)}: {printable(one.reason)}" for one in left_out[:_NAMED]]
    if len(left_out) > _NAMED:
        lines.append(f"and {len(left_out) - _NAMED:,} more, in unreadable.csv")
    return element(
        "details",
        element("summary", f"{count(len(left_out), 'image')} could not be read"),
        element("ul", [element("li", line) for line in lines], class_="said"),
        class_="bad",
    )


def _key(info: ModelInfo) -> Markup | None:
    """The colors of the classes, where pictures have them."""
    if info.task == "classification":
        return None
    colors = palette(info.colors, len(info.classes))
    items = [
        element("li", element("img", src=_picture(Image.new("RGB", (1, 1), color), "PNG"), alt="",
                              width=12, height=12), f" {printable(name)}")
        for name, color in list(zip(info.classes, colors, strict=True))[:_CLASSES]
    ]  # fmt: skip
    if len(info.classes) > _CLASSES:
        items.append(element("li", f"and {len(info.classes) - _CLASSES:,} more"))
    return element("ul", items, class_="colors")


def _gallery(shown: Sequence[Shown], images: int) -> Markup:
    note = None
    if len(shown) < images:
        note = f"The first {len(shown):,} of {images:,} images; the files hold all."
    figures = [_figure(one) for one in shown]
    several = any(len(one.pictures) > 1 for one in shown)
    gallery = element("div", figures, class_="gallery pairs" if several else "gallery")
    return section("Images", "images", gallery, note=note)


def _figure(one: Shown) -> Markup:
    name, said = printable(one.name), [printable(line) for line in one.said]
    pictures = [
        element(
            "img",
            src=_picture(image, "JPEG", quality=80),
            alt=f"{name}: {what}: {', '.join(said)}",
            width=image.width,
            height=image.height,
            loading="lazy",
            decoding="async",
        )
        for what, image in one.pictures
    ]
    first, *rest = said
    caption = element(
        "figcaption", element("strong", first), rest and element("span", ", ".join(rest)),
        element("small", name),
    )  # fmt: skip
    return element("figure", element("div", pictures, class_="looks"), caption)


def _picture(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}"
