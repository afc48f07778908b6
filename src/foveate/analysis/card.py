"""A mechanism's record as plain values: what ``foveate describe`` prints."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from foveate.registry import TAGS, Spec, describe


def card(name: str) -> dict[str, Any]:
    """All that is known of the mechanism ``name``, ready for JSON.

    Raises:
        ValueError: if it is unknown, with the nearest names.
    """
    spec = describe(name)
    return {
        "name": spec.name,
        "title": spec.title,
        "role": spec.role,
        "family": spec.family,
        "paper": spec.paper,
        "source": spec.source,
        "license": spec.license,
        "tags": {tag: meaning for tag, meaning in TAGS.items() if tag in spec.tags},
        "options": _options(spec),
        "parity": spec.parity,
        "documentation": inspect.cleandoc(sys.modules[spec.cls.__module__].__doc__ or ""),
    }


def _options(spec: Spec) -> list[dict[str, Any]]:
    meanings = _meanings(spec.cls.__doc__ or "")
    return [
        {
            "name": option.name,
            "required": option.default is option.empty,
            "default": None if option.default is option.empty else _plain(option.default),
            "meaning": meanings.get(option.name, ""),
        }
        for option in inspect.signature(spec.cls).parameters.values()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _meanings(docstring: str) -> dict[str, str]:
    """What a Google docstring's ``Args`` says of each argument."""
    meanings: dict[str, str] = {}
    name = ""
    lines = inspect.cleandoc(docstring).partition("\nArgs:\n")[2].splitlines()
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            break
        if indent == 4 and ":" in line:
            name, _, text = line.strip().partition(":")
            meanings[name] = text.strip()
        elif name and line.strip():
            meanings[name] += " " + line.strip()
    return meanings
