"""``foveate train``: its options are the settings of a training."""

from __future__ import annotations

import argparse
from typing import Any

from foveate.cli._parser import Options, Parser, key_values
from foveate.cli._settings import add_settings, settings_of
from foveate.trainer.config import SETTINGS, TYPES, defaults
from foveate.trainer.recipes import list_recipes

HELP = "Train one model, for any task, on one device or many."


def add_arguments(parser: Parser) -> None:
    """State what the command takes: every setting, and where the training lies."""
    add_settings(parser, SETTINGS, TYPES, defaults())
    others = {
        "--set": ("KEY=VALUE", "settings by the names that they have in a configuration"),
        "--config": (
            "FILE",
            "a configuration in YAML or JSON, or a published one by name "
            f"({', '.join(list_recipes())}); the other options take precedence over it",
        ),
        "--out": ("DIR", "the run directory (default: a dated one under runs/)"),
        "--resume": ("RUN", "go on with the training in this run directory"),
    }
    for flag, (metavar, what) in others.items():
        nargs = "+" if flag == "--set" else None
        parser.add_argument(
            flag, metavar=metavar, nargs=nargs, help=what, default=argparse.SUPPRESS
        )


def run(options: Options) -> int:
    """Train, and print what it came to."""
    from foveate.trainer.processes import is_first
    from foveate.trainer.run import train

    given: dict[str, Any] = vars(options)
    settings = settings_of(given, SETTINGS, TYPES)
    settings |= key_values(given.get("set", ()), "--set")
    trained = train(
        given.get("config"), out=given.get("out"), resume=given.get("resume"), **settings
    )
    if is_first():
        for line in trained.sentences:
            print(line)
    return 0
