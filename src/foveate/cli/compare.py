"""``foveate compare``: its options are the fields of the plan."""

from __future__ import annotations

import argparse
import sys

from foveate.cli._parser import Options, Parser, key_values
from foveate.cli._printing import print_table
from foveate.cli._settings import add_settings, settings_of
from foveate.study.plan import SETTINGS, TYPES, Plan

HELP = "Train mechanisms side by side and report."


def add_arguments(parser: Parser) -> None:
    """State what the command takes: every field of the plan, and where the study lies."""
    add_settings(parser, SETTINGS, TYPES, Plan().to_dict())
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
    settings = settings_of(given, SETTINGS, TYPES)
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
