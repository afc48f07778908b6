"""The report of a comparison: one HTML file that opens offline and loads nothing.

Everything is plain HTML and SVG made here, so the page reads without a script; the only script
sorts the table, and a Content-Security-Policy allows nothing else.
"""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from foveate._files import write_text
from foveate._version import __version__
from foveate.study.answer import answer, failures
from foveate.study.host import own_host
from foveate.study.records import Environment, Machine
from foveate.study.report.attention_maps import attention_maps
from foveate.study.report.charts import costs
from foveate.study.report.cite import citations
from foveate.study.report.classes import classes
from foveate.study.report.curves import curves
from foveate.study.report.data import data
from foveate.study.report.disputed import disputed_images
from foveate.study.report.health import health, warnings
from foveate.study.report.host import host
from foveate.study.report.markup import Markup, count, document, element, section
from foveate.study.report.reducers import reducers
from foveate.study.report.tables import results_table, tests_table
from foveate.study.results import Results
from foveate.study.statistics import Verdict

REPORT = "report.html"


def write_report(results: Results, verdict: Verdict) -> Path:
    """Put ``report.html`` into the run directory.

    Args:
        results: what the study has found so far; what is missing is left out or said to be missing.
        verdict: what that allows one to say.

    Returns:
        The path of the report.
    """
    path = results.root / REPORT
    write_text(path, _page(results, verdict))
    return path


def _page(results: Results, verdict: Verdict) -> str:
    title = _title(results)
    main = element(
        "main",
        _header(results, title),
        _answer(results, verdict),
        warnings(results),
        results_table(results),
        costs(results),
        reducers(results),
        curves(results),
        classes(results),
        disputed_images(results),
        attention_maps(results),
        tests_table(verdict, results.metric),
        health(results),
        host(results),
        data(results),
        citations(results),
        _repeat(results),
        class_="page",
    )
    return document(f"{title} · Foveate", _asset("report.css"), main, script=_asset("report.js"))


# Head


def _title(results: Results) -> str:
    compared = [row for row in results.rows if not row.control]
    return f"{count(len(compared), 'attention mechanism')} on {Path(results.plan.data).name}"


def _header(results: Results, title: str) -> Markup:
    plan = results.plan
    facts = {
        "Data": _images(results),
        "Host": _host(results),
        "Size": plan.image_size and f"{plan.image_size[0]} × {plan.image_size[1]}",
        "Epochs": plan.epochs,
        "Seeds": ", ".join(map(str, plan.seeds)),
        "Trials": _trial_count(results),
        "Device": _device(results),
    }
    return element(
        "header",
        element("p", "Foveate comparison", class_="eyebrow"),
        element("h1", title),
        element("dl", [_fact(*fact) for fact in facts.items() if fact[1]], class_="facts"),
    )


def _host(results: Results) -> str:
    """The host; one of the user's own with its weights and how many places were changed."""
    plan, found = results.plan, results.host
    if found is None:
        return plan.host
    own = own_host(plan.host)
    name = Path(plan.host).name if own is not None and own.kind == "file" else plan.host
    weights = f"weights {Path(plan.weights).name}" if plan.weights else "from scratch"
    return f"{name}, {weights}; {count(found.places, 'place')} changed"


def _fact(name: str, value: Any) -> Markup:
    return element("div", element("dt", name), element("dd", value))


def _images(results: Results) -> str | None:
    images = results.images
    if images is None:
        return None
    skipped = f", {images.skipped:,} unreadable" if images.skipped else ""
    return (
        f"{images.train:,} images to train on, {images.test:,} held out, "
        f"{count(images.classes, 'class')}{skipped}"
    )


def _trial_count(results: Results) -> str:
    done = sum(len(row.done) for row in results.rows)
    failed = sum(len(row.failed) for row in results.rows)
    return f"{done} finished" + (f", {failed} failed" if failed else "")


def _device(results: Results) -> str:
    measured = next((row.measured for row in results.rows if row.measured is not None), None)
    if measured is None:
        return results.plan.device
    where = f" of node {measured.machine}" if measured.machine else ""
    return f"{measured.device}{where}, {count(measured.threads, 'thread')}"


def _answer(results: Results, verdict: Verdict) -> Markup:
    first = answer(results, verdict)
    sentences = [verdict.headline] if first != verdict.headline else []
    sentences += filter(None, [failures(results)])
    return element(
        "section",
        element("h2", "Answer", id="verdict-title"),
        element("p", first, class_="headline"),
        element("ul", [element("li", sentence) for sentence in (*sentences, *verdict.sentences)]),
        id="verdict",
        aria_labelledby="verdict-title",
    )


# How to repeat


def _repeat(results: Results) -> Markup:
    environment = results.environment
    return section(
        "How to repeat",
        "repeat",
        element("pre", element("code", _command(environment))),
        element("details", element("summary", "The plan that ran (plan.yaml)"),
                element("pre", element("code", results.plan.to_yaml()))),
        element("details", element("summary", "Environment"),
                element("table", element("tbody", _environment(environment)), class_="plain"))
        if environment else None,
        element("p", f"Made by Foveate {__version__}.", class_="note"),
    )  # fmt: skip


def _command(environment: Environment | None) -> str:
    """What was typed, or what does the same."""
    if environment is None or not environment.command:
        return "foveate compare --plan plan.yaml"
    return shlex.join(["foveate", *environment.command[1:]])


def _environment(environment: Environment) -> list[Markup]:
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    resumed = "; ".join(f"{r.at} {', '.join(r.changed)}".rstrip() for r in environment.resumed)
    lines = {
        "started": environment.started,
        "resumed": resumed or None,
        "foveate": environment.foveate,
        "commit": environment.commit,
        "python": environment.python,
        "versions": versions,
        "platform": environment.platform,
        "processor": environment.cpu,
        "cores": environment.cores,
        "device": f"{environment.device} ({environment.device_name})",
        "nodes": "; ".join(map(_node, environment.nodes)) or None,
        "workers": environment.workers,
        "threads": environment.threads,
        "seeds": ", ".join(map(str, environment.seeds)),
        "command": environment.command and shlex.join(environment.command),
    }
    return [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in lines.items()
        if value is not None
    ]


def _node(node: Machine) -> str:
    gpus = f", {count(node.gpus, 'GPU')} ({node.accelerator})" if node.gpus else ""
    return f"{node.host}: {count(node.cpus, 'CPU')} ({node.processor}){gpus}"


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
