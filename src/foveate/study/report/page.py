"""The report of a comparison: one HTML file that opens offline.

Text, tables and heat maps are plain HTML made here; the charts are drawn by plotly.js in the
browser, from numbers embedded in the page. plotly.js travels compressed inside it.
"""

from __future__ import annotations

import base64
import gzip
import shlex
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

import foveate
from foveate._files import write_text
from foveate.study.report.charts import cost_points, costs, curve_data, curves
from foveate.study.report.markup import Markup, count, element, embed_json, join, section
from foveate.study.report.sights import sights
from foveate.study.report.tables import results_table, tests_table
from foveate.study.results import Results, read_results
from foveate.study.statistics import Verdict, judge

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Make ``report.html`` in a run directory from what the study has written so far.

    Args:
        run: the directory; what is missing in it is left out or said to be missing.

    Returns:
        The path of the report.

    Raises:
        ValueError: if the directory holds no trial, or a file in it is damaged.
    """
    results = read_results(Path(run))
    page = _page(results, judge(results.scores, results.controls))
    path = Path(run) / REPORT
    write_text(path, page)
    return path


def _page(results: Results, verdict: Verdict) -> str:
    title = _title(results)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · Foveate"),
        element("style", Markup(_asset("report.css"))),
    )
    main = element(
        "main",
        _header(results, title),
        _verdict(verdict),
        results_table(results),
        costs(results),
        curves(results),
        sights(results),
        tests_table(verdict),
        _repeat(results),
        class_="page",
    )
    body = element("body", main, _scripts(results))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


# Head


def _title(results: Results) -> str:
    data = Path(str(results.plan.get("data") or "")).name or "images"
    compared = [row for row in results.rows if not row.control]
    return f"{count(len(compared), 'attention mechanism')} on {data}"


def _header(results: Results, title: str) -> Markup:
    plan = results.plan
    size = plan.get("image_size")
    seeds = sorted({seed for row in results.rows for seed in (*row.done, *row.failed)})
    facts = {
        "Data": _images(results),
        "Host": plan.get("host"),
        "Size": f"{size[0]} × {size[1]}" if isinstance(size, list) and len(size) == 2 else size,
        "Epochs": plan.get("epochs"),
        "Seeds": ", ".join(map(str, seeds)),
        "Trials": _trial_count(results),
        "Device": _device(results),
    }
    return element(
        "header",
        element("p", "Foveate comparison", class_="eyebrow"),
        element("h1", title),
        element("dl", [_fact(*fact) for fact in facts.items() if fact[1]], class_="facts"),
    )


def _fact(name: str, value: Any) -> Markup:
    return element("div", element("dt", name), element("dd", value))


def _images(results: Results) -> str | None:
    images = results.images
    if not images:
        return None
    skipped = f", {images['skipped']:,} unreadable" if images["skipped"] else ""
    return (
        f"{images['train']:,} images to train on, {images['test']:,} held out, "
        f"{count(images['classes'], 'class')}{skipped}"
    )


def _trial_count(results: Results) -> str:
    done = sum(len(row.done) for row in results.rows)
    failed = sum(len(row.failed) for row in results.rows)
    return f"{done} finished" + (f", {failed} failed" if failed else "")


def _device(results: Results) -> str | None:
    measured = next((row.measured for row in results.rows if row.measured.get("device")), {})
    threads = measured.get("threads")
    device = measured.get("device") or results.plan.get("device")
    return f"{device}, {count(threads, 'thread')}" if device and threads else device


def _verdict(verdict: Verdict) -> Markup:
    return element(
        "section",
        element("h2", "Verdict", id="verdict-title"),
        element("p", verdict.headline, class_="headline"),
        element("ul", [element("li", sentence) for sentence in verdict.sentences]),
        id="verdict",
        aria_labelledby="verdict-title",
    )


# How to repeat


def _repeat(results: Results) -> Markup:
    command = _command(results.environment.get("command"))
    plan = yaml.safe_dump(results.plan, sort_keys=False, allow_unicode=True)
    environment = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in _flat(results.environment)
    ]
    return section(
        "How to repeat",
        "repeat",
        element("pre", element("code", command)),
        element("details", element("summary", "The plan that ran (plan.yaml)"),
                element("pre", element("code", plan))) if results.plan else None,
        element("details", element("summary", "Environment"),
                element("table", element("tbody", environment), class_="plain"))
        if environment else None,
        element("p", f"Made by Foveate {foveate.__version__}.", class_="note"),
    )  # fmt: skip


def _command(recorded: Any) -> str:
    """What was typed, or what does the same."""
    if isinstance(recorded, list) and recorded:
        return shlex.join(["foveate", *map(str, recorded[1:])])
    return str(recorded or "foveate compare --plan plan.yaml")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as dotted names, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append((f"{prefix}{name}", text))
    return lines


# Scripts


def _scripts(results: Results) -> Markup:
    data = {
        "latency": cost_points(results, "latency"),
        "madds": cost_points(results, "madds"),
        "curves": curve_data(results),
    }
    return join(
        [
            element("script", embed_json(data), type="application/json", id="data"),
            element("script", Markup(_plotly()), type="text/plain", id="plotly"),
            element("script", Markup(_asset("report.js"))),
        ]
    )


@cache
def _plotly() -> str:
    """plotly.js, compressed; a browser unpacks it faster than it would read it from a disk."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), 9, mtime=0)
    return base64.b64encode(packed).decode()


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
