"""The command ``foveate``: one file a command, which reads arguments, calls the library, prints.

PyTorch is imported by what runs, never by what reads arguments, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import sys

from foveate import __version__

try:
    from foveate.cli import compare, describe, export, predict, profile, runs, train
    from foveate.cli import list as list_
    from foveate.cli._parser import Parser, refuse
except ModuleNotFoundError:
    sys.exit("foveate: the command needs more than the library: pip install 'foveate[study]'")
except KeyboardInterrupt:
    sys.exit(130)

COMMANDS = {
    "list": list_,
    "describe": describe,
    "profile": profile,
    "compare": compare,
    "train": train,
    "predict": predict,
    "runs": runs,
    "export": export,
}
"""Modules with ``HELP``, ``add_arguments(parser)`` and ``run(options) -> exit code``."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is 2 where the user's input is at fault."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):  # a name that a cp1252 console lacks ends nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = Parser(
        prog="foveate",
        description="Visual attention: look up, measure, compare, export.",
        version=__version__,
    )
    commands = parser.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        its_parser = Parser(description=command.HELP)
        command.add_arguments(its_parser)
        commands.add_subcommand(name, its_parser, help=command.HELP)
    options = parser.parse_args(arguments)
    run = COMMANDS[options.subcommand].run
    try:
        return run(options[options.subcommand])
    except BrokenPipeError:
        sys.stderr.close()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        refuse(str(error))
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        refuse("there is no home directory to keep files in; set HOME to a directory")
    return 0
