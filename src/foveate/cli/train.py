"""``foveate train``: its options are the settings of a training."""

from __future__ import annotations

import argparse
import sys
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
    from foveate.trainer.run import number_of_devices, train

    given: dict[str, Any] = vars(options)
    settings = settings_of(given, SETTINGS, TYPES)
    settings |= key_values(given.get("set", ()), "--set")
    config, out, resume = (given.get(key) for key in ("config", "out", "resume"))
    devices = number_of_devices(config, resume, settings)
    if devices > 1:
        return _in_processes(devices, out, resume)
    trained = train(config, out=out, resume=resume, **settings)
    if is_first():
        for line in trained.sentences:
            print(line)
    return 0


def _in_processes(devices: int, out: str | None, resume: str | None) -> int:
    """The same command again in a process for each device of this machine."""
    from foveate.study.mirror import mirrored
    from foveate.trainer.run import dated
    from foveate.training.launch import launch

    command = [sys.executable, "-m", "foveate", *sys.argv[1:]]
    if resume is not None:
        return launch(command, devices)
    with mirrored(out or dated()) as root:  # the last of two options of a name counts
        return launch([*command, "--out", str(root)], devices)
