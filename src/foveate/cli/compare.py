"""``foveate compare``: its options are the fields of the plan."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from foveate.cli._parser import Options, Parser, key_values
from foveate.cli._printing import print_table
from foveate.study.entry import Entry, read_value
from foveate.study.plan import SETTINGS, TYPES, Plan

HELP = "Train mechanisms side by side and report."

_TEXT = (str, str | None, tuple[str, ...], tuple[Entry, ...])
"""Types of fields that take arguments as they were typed; others are read as YAML."""


def add_arguments(parser: Parser) -> None:
    """State what the command takes: every field of the plan, and where the study lies."""
    for name, setting in SETTINGS.items():
        parser.add_argument(
            _flag(name),
            help=f"{setting.help} (default: {_default(name)})",
            default=argparse.SUPPRESS,
            **_form(name),
        )
    others = {
        "--set": ("KEY=VALUE", "settings by the names that they have in a plan"),
        "--plan": ("FILE", "a plan in YAML or JSON; the other options take precedence over it"),
        "--out": ("DIR", "the run directory (default: a dated one under runs/)"),
        "--resume": ("RUN", "go on with the study in this run directory"),
    }
    for flag, (metavar, what) in others.items():
        nargs = "+" if flag == "--set" else None
        parser.add_argument(
            flag, metavar=metavar, nargs=nargs, help=what, default=argparse.SUPPRESS
        )


def run(options: Options) -> int:
    """Run the study and print what it came to; 1 where a trial failed."""
    from foveate.study.compare import compare

    given = vars(options)
    settings = {name: _value(name, given[name]) for name in SETTINGS if name in given}
    settings |= key_values(given.get("set", ()), "--set")
    result = compare(
        given.get("plan"),
        out=given.get("out"),
        resume=given.get("resume"),
        command=sys.argv,
        **settings,
    )
    print_table(result.head, result.table, right=True)
    for line in result.sentences:
        print(line)
    print(f"report: {result.report}")
    return 1 if result.failures else 0


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _form(name: str) -> dict[str, Any]:
    """How many arguments a field takes, and what the help calls them."""
    kind = TYPES[name]
    if kind == dict[str, Any]:
        return {"nargs": "+", "metavar": "KEY=VALUE"}
    word = "NAME" if kind in _TEXT else "N"
    several = kind not in (str, str | None) and "tuple" in str(kind)
    number = "*" if name == "controls" else "+"  # nothing but the controls may be left out
    return {"nargs": number if several else None, "metavar": word}


def _value(name: str, given: Any) -> Any:
    """What was typed, for the plan to check; a single one of several stands by itself."""
    if TYPES[name] == dict[str, Any]:
        return key_values(given, _flag(name))
    values = given if isinstance(given, list) else [given]
    if TYPES[name] not in _TEXT:
        values = [read_value(value, _flag(name)) for value in values]
    return values[0] if len(values) == 1 else values


def _default(name: str) -> str:
    """What a field is when nothing is said of it, in words."""
    said = SETTINGS[name].default
    if said is not None:
        return said
    value = Plan().to_dict()[name]
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, {}) else str(value)
