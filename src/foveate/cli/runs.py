"""``foveate runs``."""

from __future__ import annotations

from foveate.cli._parser import Options, Parser
from foveate.cli._printing import print_json, print_table

HELP = "Studies and trainings that lie in a folder: how far they are, and what they came to."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    what = "a run directory or a folder of them (default: runs)"
    parser.add_argument("folders", nargs="*", metavar="DIR", default=["runs"], help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: Options) -> int:
    """Print the runs, the latest first."""
    from foveate.study.runs import list_runs
    from foveate.trainer.runs import list_trainings

    folders = options.folders or ["runs"]
    runs = [*list_runs(folders), *list_trainings(folders)]
    runs.sort(key=lambda run: (run.begun or "", str(run.root)), reverse=True)
    if options.json:
        print_json([run.to_dict() for run in runs])
        return 0
    if not runs:
        print(f"no studies and no trainings in {' '.join(map(str, folders))}")
        return 0
    print_table(
        ("run", "begun (UTC)", "state", "task", "model", "data", "result"),
        [
            (
                str(run.root), (run.begun or "-").replace("T", " "), run.said, run.task or "-",
                run.host or "-", run.data or "-", run.answer or "",
            )
            for run in runs
        ],
    )  # fmt: skip
    return 0
