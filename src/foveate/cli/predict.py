"""``foveate predict``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from foveate.cli._parser import Options, Parser, add_imports

HELP = "What a trained model finds in images, as files and a page."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    add = parser.add_argument
    add(
        "checkpoint", metavar="CHECKPOINT", help="a trained model's file, or the folder that has it"
    )
    what = "files, folders with all below them, or lists (text files with a path a line)"
    add("images", nargs="+", metavar="IMAGES", help=what)
    add("-o", "--out", metavar="DIR", required=True, help="a new or empty folder for the results")
    add("--top-k", type=int, metavar="N", help="classes named of each image (default: 5)")
    low = "in detection, objects of a lower score are left out (default: 0.5)"
    add("--score-threshold", type=float, metavar="N", help=low)
    size = "images a batch (default: 32, 8 in segmentation, 4 in detection)"
    add("--batch-size", type=int, metavar="N", help=size)
    add("--device", default="auto", help="cpu, cuda, mps or auto: cuda where there is one")
    add("--threads", type=int, metavar="N", help="CPU threads (default: as PyTorch decides)")
    own = "of a model trained in a host of your own: FILE.py:FUNCTION that builds it; it is run"
    add("--host", metavar="NAME", help=own)
    add_imports(parser)


def run(options: Options) -> int:
    """Predict, and print what was left."""
    from foveate.prediction.predict import predict

    with _bar() as progress:
        result = predict(
            options.checkpoint,
            options.images,
            options.out,
            top_k=options.top_k,
            score_threshold=options.score_threshold,
            batch_size=options.batch_size,
            device=options.device,
            threads=options.threads,
            host=options.host,
            imports=options.imports,
            progress=progress,
        )
    for line in result.said:
        print(line)
    print(f"{result.images:,} image{'' if result.images == 1 else 's'} predicted: {result.page}")
    return 0


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress("images", *columns, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
