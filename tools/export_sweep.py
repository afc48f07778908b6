"""Exports every mechanism and a small form of every family, for the table of docs/deploy.md.

``python tools/export_sweep.py`` tries what ``docs/deploy-table.json`` does not have yet and keeps
what came of it there. Formats, mechanisms and models that are named behind it are tried alone;
``mechanism`` and ``model`` name all of a kind. A process tries one after the other; where it dies,
or takes too long, another takes its place.
``python tools/export_sweep.py page`` writes the table and tries nothing. ONNX and OpenVINO get free
batch, height and width, ExecuTorch and LiteRT fixed sizes; Core ML is converted and not run. It
takes hours.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "docs" / "deploy-table.json"
PAGE = ROOT / "docs" / "deploy.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
FREE = ("batch", "height", "width")
FORMATS = {"onnx": FREE, "openvino": FREE, "executorch": (), "litert": (), "coreml": ()}
TITLES = {
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "litert": "LiteRT",
    "coreml": "Core ML",
}
IMAGE, MAP = (192, 144), (18, 27)
SECONDS = 180
"""Of processor time, that a format may take."""

sys.path.insert(0, str(ROOT))


def subjects() -> dict[str, str]:
    """What is tried: names of models and mechanisms, with their kind."""
    from tests.models.small import SMALL

    import foveate

    mechanisms = {
        name: "mechanism"
        for name in foveate.list_attention()
        if foveate.describe(name).role != "aligner"
    }
    return {**mechanisms, **dict.fromkeys(SMALL, "model")}


def sweep(formats: list[str], names: list[str]) -> None:
    """Try what has no result yet."""
    worker = Worker()
    for name in names:
        for format_ in formats:
            found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
            if format_ in found.get(name, {}):
                continue
            result = worker.ask(name, format_)
            print(name, format_, result, flush=True)
            found.setdefault(name, {})[format_] = result
            FOUND.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


class Worker:
    """A process that exports what it is asked to, and is replaced when it dies."""

    def __init__(self) -> None:
        self.process: Any = None

    def ask(self, name: str, format_: str) -> dict[str, Any]:
        """What the export of a subject comes to; of a process that dies, the reason."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.line, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        self.line.send((name, format_))
        try:
            return self.line.recv()
        except EOFError:
            self.process.join()
        code, self.process = self.process.exitcode, None
        if code == -signal.SIGPROF:
            return {"reason": f"took more than {SECONDS} s"}
        return {"reason": f"the process ended with {code}"}


def _serve(line: Any) -> None:
    """Export what is asked for; the system ends a process whose time is over."""
    while True:
        name, format_ = line.recv()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        result = exported(name, format_)
        signal.setitimer(signal.ITIMER_PROF, 0)
        line.send(result)


def exported(name: str, format_: str) -> dict[str, Any]:
    """What the export of one subject comes to: the difference and the size, or the reason."""
    from foveate.deploy.export import FORMATS as WRITERS
    from foveate.deploy.export import carried_out

    warnings.simplefilter("ignore")
    writer, began = WRITERS[format_], time.perf_counter()
    with TemporaryDirectory() as folder:
        place = Path(folder) / f"model{writer.suffix}"
        try:
            made = deployment(name, FORMATS[format_])
            result = carried_out(made, writer, place, {}, began)
        except Exception as error:
            known = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            said = " ".join(str(error).split()).replace(f"{ROOT}/", "")
            return {"reason": known + said[:300]}
    return {
        "difference": result.difference,
        "bytes": result.bytes,
        "notes": [note for note in result.notes if "converted from ONNX" in note],
    }


@lru_cache(maxsize=1)
def deployment(name: str, free: tuple[Any, ...]) -> Any:
    """A subject as it is to be deployed; formats with the same free axes share its graph."""
    import torch
    from tests.models.small import SMALL
    from tests.models.test_contract import lively

    from foveate.checks.subject import examine
    from foveate.deploy.program import Deployment
    from foveate.deploy.request import Request

    torch.manual_seed(0)
    if name in SMALL:
        return Deployment.of(lively(name, SMALL[name]), Request(IMAGE, 3, free))
    subject = examine(name)
    options = {} if subject.role == "gate" else {"role": "mixer"}
    return Deployment.of(subject.build(**options), Request(MAP, subject.dim, free))


def write_page() -> None:
    """Put the table between the marks of the page."""
    found = json.loads(FOUND.read_text())
    lines, reasons, held = [], [], dict.fromkeys(FORMATS, 0)
    tried = dict.fromkeys(FORMATS, 0)
    for kind in ("model", "mechanism"):
        lines += [
            "",
            f"| {'small form of' if kind == 'model' else 'mechanism'} | "
            f"{' | '.join(TITLES.values())} |",
            f"|---|{'--:|' * len(FORMATS)}",
        ]
        for name in (name for name, what in subjects().items() if what == kind):
            cells = []
            for format_ in FORMATS:
                result = found.get(name, {}).get(format_)
                tried[format_] += result is not None
                held[format_] += result is not None and "reason" not in result
                if result is not None and "reason" in result:
                    reasons.append(f"* `{name}`, {TITLES[format_]}: {result['reason']}")
                cells.append(_cell(result))
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    counts = ", ".join(
        f"{TITLES[format_]} {held[format_]} of {tried[format_]}"
        for format_ in FORMATS
        if tried[format_]
    )
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = [
        BEGIN,
        "",
        f"Of what was tried, these hold: {counts}. A star: OpenVINO read it from "
        "ONNX, not from PyTorch's graph.",
        *lines,
        "",
    ]
    if reasons:
        body += ["What does not hold, and why:", "", *reasons, ""]
    PAGE.write_text(before + "\n".join(body) + END + after)


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "–"
    if "reason" in result:
        return "no"
    difference = result["difference"]
    mark = "*" if result["notes"] else ""
    return "converted" if difference is None else f"{difference:.1e}{mark}"


if __name__ == "__main__":
    if sys.argv[1:] == ["page"]:
        write_page()
    else:
        asked, known = sys.argv[1:], subjects()
        names = [name for name, kind in known.items() if {name, kind} & {*asked}]
        formats = [format_ for format_ in FORMATS if format_ in asked]
        sweep(formats or list(FORMATS), names or list(known))
