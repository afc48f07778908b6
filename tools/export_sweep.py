"""Exports every mechanism and a small form of every family, for the table of docs/deploy.md.

``python tools/export_sweep.py`` tries what ``docs/deploy-table.json`` does not have yet, each in a
process of its own, and keeps what came of it there; with names of formats behind it those alone.
``python tools/export_sweep.py page`` writes the table and tries nothing. ONNX and OpenVINO get free
batch, height and width, ExecuTorch and LiteRT fixed sizes; Core ML is converted and not run. It
takes hours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
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
    return {**dict.fromkeys(SMALL, "model"), **mechanisms}


def sweep(formats: list[str]) -> None:
    """Try what has no result yet, a process for each model or mechanism."""
    for name in subjects():
        found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
        left = [format_ for format_ in formats if format_ not in found.get(name, {})]
        if not left:
            continue
        results = _in_a_process(name, left)
        print(name, results, flush=True)
        found.setdefault(name, {}).update(results)
        FOUND.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _in_a_process(name: str, formats: list[str]) -> dict[str, Any]:
    """The results by format; of a process that dies, the reason for the one that it died at."""
    command = [sys.executable, __file__, "one", name, *formats]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = {line.pop("format"): line for line in lines}
    left = [format_ for format_ in formats if format_ not in results]
    if left:
        said = done.stderr.strip().splitlines() or ["nothing"]
        results[left[0]] = {"reason": f"ended with {done.returncode}: {said[-1][:300]}"}
    return results


def one(name: str, formats: list[str]) -> Iterator[dict[str, Any]]:
    """What the exports of one subject come to: the difference and the size, or the reason."""
    import torch
    from tests.models.small import SMALL
    from tests.models.test_contract import lively

    from foveate.checks.subject import examine
    from foveate.deploy.export import FORMATS as WRITERS
    from foveate.deploy.export import carried_out
    from foveate.deploy.program import Deployment
    from foveate.deploy.request import Request

    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if name in SMALL:
        model, size, channels = lively(name, SMALL[name]), IMAGE, 3
    else:
        subject = examine(name)
        options = {} if subject.role == "gate" else {"role": "mixer"}
        model, size, channels = subject.build(**options), MAP, subject.dim
    made = {
        free: Deployment.of(model, Request(size, channels, free))
        for free in {FORMATS[format_] for format_ in formats}
    }
    for format_ in formats:
        writer, began = WRITERS[format_], time.perf_counter()
        with TemporaryDirectory() as folder:
            place = Path(folder) / f"model{writer.suffix}"
            try:
                result = carried_out(made[FORMATS[format_]], writer, place, {}, began)
            except ValueError as error:
                yield {"format": format_, "reason": " ".join(str(error).split())[:300]}
                continue
        yield {
            "format": format_,
            "difference": result.difference,
            "bytes": result.bytes,
            "notes": [note for note in result.notes if "converted from ONNX" in note],
        }


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
    if sys.argv[1:2] == ["one"]:
        for each in one(sys.argv[2], sys.argv[3:]):
            print(json.dumps(each), flush=True)
    elif sys.argv[1:] == ["page"]:
        write_page()
    else:
        sweep(sys.argv[1:] or list(FORMATS))
