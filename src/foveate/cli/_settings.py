"""Options of a command that are the fields of a record: each with its check, help and default."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from foveate.cli._parser import Parser, key_values
from foveate.metrics import Metric
from foveate.study.entry import Entry, read_value
from foveate.study.plan import Setting

_TEXT = (
    str, str | None, tuple[str, ...], tuple[Entry, ...], Entry | None,
)  # fmt: skip
"""Types of fields that take arguments as they were typed; others are read as YAML."""


def add_settings(
    parser: Parser,
    settings: Mapping[str, Setting],
    types: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> None:
    """An option for each setting.

    Args:
        parser: that gets them.
        settings: by name.
        types: of the fields, by name.
        defaults: plain values, by name.
    """
    for name, setting in settings.items():
        parser.add_argument(
            flag(name),
            help=f"{setting.help} (default: {_shown(setting, defaults[name])})",
            default=argparse.SUPPRESS,
            **_form(name, types[name]),
        )


def settings_of(
    given: Mapping[str, Any], settings: Mapping[str, Setting], types: Mapping[str, Any]
) -> dict[str, Any]:
    """What was typed for settings, as plain values for their checks."""
    return {name: value_of(name, types[name], given[name]) for name in settings if name in given}


def flag(name: str) -> str:
    """The option of a setting."""
    return "--" + name.replace("_", "-")


def value_of(name: str, kind: Any, given: Any) -> Any:
    """What was typed for one, for its check; a single one of several stands by itself."""
    if kind == dict[str, Any]:
        return key_values(given, flag(name))
    values = given if isinstance(given, list) else [given]
    if kind not in _TEXT:
        values = [read_value(value, flag(name)) for value in values]
    return values[0] if len(values) == 1 else values


def _form(name: str, kind: Any) -> dict[str, Any]:
    """How many arguments a field takes, and what the help calls them."""
    if kind == dict[str, Any]:
        return {"nargs": "+", "metavar": "KEY=VALUE"}
    word = "true|false" if kind is bool else "NAME" if kind in (*_TEXT, Metric) else "N"
    several = kind not in (str, str | None, Entry | None) and "tuple" in str(kind)
    number = "*" if name == "controls" else "+"  # nothing but the controls may be left out
    return {"nargs": number if several else None, "metavar": word}


def _shown(setting: Setting, value: Any) -> str:
    """What a field is when nothing is said of it, in words."""
    if setting.default is not None:
        return setting.default
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, {}) else str(value)
