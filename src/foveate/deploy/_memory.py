"""What a process grows by that loads a file and runs it: ``python -m foveate.deploy._memory``.

Its arguments are those of :func:`command`; the libraries are imported before it begins to count.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from foveate.deploy.export import FORMATS
from foveate.deploy.program import images_of, quiet
from foveate.deploy.request import Request, Size

_CALLS = 3


def command(format_: str, path: Path, request: Request, threads: int) -> list[str]:
    """Of a process that prints the bytes; of format ``""`` is a pickle of the exporter's own."""
    numbers = map(str, (request.channels, *request.size, threads))
    return [sys.executable, "-m", __name__, format_, str(path), *numbers]


def grown(format_: str, path: Path, request: Request, threads: int) -> int:
    """Bytes at the peak, beyond the peak before anything was loaded."""
    torch.set_num_threads(threads)
    for package in FORMATS[format_].imported if format_ else ():
        with quiet():
            importlib.import_module(package)
    images = images_of(Size(1, *request.size), request)
    before = _peak()
    whole = None if format_ else torch.load(path, weights_only=False)
    run = whole or FORMATS[format_].open(path, threads)
    with torch.inference_mode():
        for _ in range(_CALLS):
            run(images)
    return _peak() - before


def _peak() -> int:
    import resource  # not on Windows, where this process fails and nothing is told

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    name, file, channels, height, width, count = sys.argv[1:]
    asked = Request((int(height), int(width)), int(channels))
    print(grown(name, Path(file), asked, int(count)))
