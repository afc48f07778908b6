"""HTML whose text is always escaped: an element is built from its children, never pasted."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

_VOID = {"img", "meta", "wbr"}


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element; children that are not :class:`Markup` are escaped.

    Args:
        name: of the element.
        *children: elements, text, lists of them, or None for nothing.
        **attributes: ``class_`` stands for ``class`` and ``data_sort`` for ``data-sort``; one that
            is None or False is left out.
    """
    opening = "".join([name, *map(_attribute, attributes.items())])
    if name in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(children)}</{name}>")


def document(title: str, style: str, *body: Any, script: str = "") -> str:
    """A whole page, which may load nothing and run nothing but ``script``.

    A Content-Security-Policy allows the style sheet and the script by their hashes, and images that
    lie in the page, and forbids everything else, whatever text the page shows.

    Args:
        title: of the page.
        style: its style sheet.
        *body: its elements.
        script: its script.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    scripted = script and element("script", Markup(script))
    page = element("html", head, element("body", *body, scripted or None), lang="en")
    return f"<!doctype html>\n{page}\n"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def join(children: Any) -> Markup:
    """Children one after the other."""
    return Markup("".join(_text(child) for child in children))


def section(title: str, identifier: str, *children: Any, note: Any = None) -> Markup:
    """A section under its heading, with a note below that says how to read it."""
    return element(
        "section",
        element("h2", title, id=f"{identifier}-title"),
        note and element("p", note, class_="note"),
        *children,
        id=identifier,
        aria_labelledby=f"{identifier}-title",
    )


def count(number: Any, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def breakable(label: str) -> list[Any]:
    """The label, which may be broken after underscores."""
    first, *rest = label.split("_")
    return [first, *(["_", element("wbr"), word] for word in rest)]


def _text(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (list, tuple)):
        return join(child)
    return html.escape(str(child))


def _attribute(item: tuple[str, Any]) -> str:
    name, value = item
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
