"""Reading arguments, and refusing them in one line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import jsonargparse

Options = jsonargparse.Namespace


class _Help(jsonargparse.DefaultHelpFormatter):
    """Says a default once: not where the words do, nor where it is nothing."""

    def _get_help_string(self, action: argparse.Action) -> str:
        words, default = action.help or "", action.default
        nothing = default is None or default is False or default in ([], argparse.SUPPRESS)
        if "(default:" in words or nothing:
            return f"{words} (required)" if action.required and action.option_strings else words
        return f"{words} (default: %(default)s)"


class Parser(jsonargparse.ArgumentParser):
    """Answers what it cannot read in one line, with the nearest option, and exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        missing = re.match(r"the following arguments are required: (?:\w+\.)?(\w+)", message)
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown:
            from foveate.arguments import nearest

            message = f"unknown option {unknown[1]}{nearest(unknown[1], self._all_options())}"
        elif missing:
            message = f"{missing[1].rstrip('s').upper()} is missing; see foveate --help"
        elif choice:
            from foveate.arguments import nearest

            known = re.findall(r"[\w-]+", choice[2])
            message = f"unknown command {choice[1]!r}{nearest(choice[1], known)}"
        elif 'expected "subcommand"' in message:
            message = f"a command is missing: one of {', '.join(self._commands())}"
        message = re.sub(r'^Parser key "([\w.]+)"', r"--\1", message)
        refuse(re.sub(r"<class '(\w+)'>", r"\1", message))

    def _commands(self) -> dict[str, Any]:
        """The parsers of the commands, by their names."""
        choices = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        return choices[0] if choices else {}

    def _all_options(self) -> set[str]:
        parsers: list[Any] = [self, *self._commands().values()]
        return {option for parser in parsers for option in parser._option_string_actions}


def add_imports(parser: Parser) -> None:
    """State where the user's own mechanisms are registered."""
    what = "modules or files that register mechanisms of your own"
    parser.add_argument("--imports", metavar="NAME", nargs="+", default=[], help=what)


def refuse(message: str) -> NoReturn:
    """End with one line on standard error and exit code 2."""
    print(f"foveate: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def key_values(pairs: Iterable[str], flag: str) -> dict[str, Any]:
    """The values of ``KEY=VALUE`` arguments, read as YAML."""
    from foveate.study.entry import read_value

    values: dict[str, Any] = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{flag} takes KEY=VALUE, got {text!r}")
        values[key] = read_value(value, f"{flag} {key}")
    return values
