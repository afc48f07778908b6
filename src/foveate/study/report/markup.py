"""HTML whose text is always escaped: an element is built from its children, never pasted."""

from __future__ import annotations

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
