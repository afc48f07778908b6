"""The tables for other programs: ``results.csv``, ``results.json`` and ``summary.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from foveate._files import write_json, write_text
from foveate.metrics import Metric
from foveate.study.records import InRuntime, TrialRecord
from foveate.study.results import Results, Row


def write_spreadsheets(results: Results) -> None:
    """Put ``results.csv``, ``results.json`` and ``summary.csv`` in place."""
    rows = {row.subject.attention: row for row in results.rows}
    timed_in = results.timed_in
    trials = [
        _trial_line(trial, rows[trial.subject.attention], timed_in) for trial in results.trials()
    ]
    write_json(results.root / "results.json", trials)
    write_text(results.root / "results.csv", _csv(trials))
    lines = [_summary_line(row, timed_in) for row in results.rows]
    write_text(results.root / "summary.csv", _csv(lines))


def _trial_line(trial: TrialRecord, row: Row, timed_in: InRuntime | None) -> dict[str, Any]:
    """A trial as a line of ``results.csv``; what was measured is of one trained model of each."""
    subject = trial.subject
    return {
        "attention": subject.attention,
        "label": subject.label,
        "role": subject.role,
        "family": subject.family,
        "control": subject.control,
        "seed": trial.seed,
        "host": trial.host,
        "status": trial.status,
        "error": trial.error,
        _column(trial.metric): trial.score,
        "loss": trial.loss,
        "epochs": trial.epochs,
        "parameters": trial.parameters,
        "multiply_adds": trial.multiply_adds,
        **_latency_columns(row, timed_in),
        "peak_memory_mb": row.peak_memory_mb,
        "train_images_per_second": trial.train_images_per_second,
        "train_seconds": trial.train_seconds,
    }


def _summary_line(row: Row, timed_in: InRuntime | None) -> dict[str, Any]:
    """A row as a line of ``summary.csv``."""
    score, found = _column(row.metric), row.estimate
    return {
        "attention": row.subject.attention,
        "label": row.label,
        "role": row.subject.role,
        "family": row.subject.family,
        "control": row.control,
        "seeds": len(row.done),
        "failed": len(row.failed),
        score: found and found.mean,
        f"{score}_low": found and found.low,
        f"{score}_high": found and found.high,
        "parameters": row.parameters,
        "multiply_adds": row.multiply_adds,
        **_latency_columns(row, timed_in),
        "latency_ms_low": row.latency and row.latency.low,
        "latency_ms_high": row.latency and row.latency.high,
        "peak_memory_mb": row.peak_memory_mb,
        "energy_mj": row.measured and row.measured.energy_mj,
        "train_images_per_second": row.train_images_per_second,
        "matched": row.matched and f"{row.matched.option}={row.matched.value:g}",
    }


def _column(metric: Metric) -> str:
    """The score's column: the metric's name, apart from the columns that are always there."""
    return f"held_out_{metric.name}" if metric.name in ("error", "loss") else metric.name


def _latency_columns(row: Row, timed_in: InRuntime | None) -> dict[str, Any]:
    latency = row.latency
    columns: dict[str, Any] = {
        "latency_ms": latency and latency.median,
        "latency_ms_p25": latency and latency.p25,
        "latency_ms_p75": latency and latency.p75,
        "latency_batch": latency and latency.batch,
    }
    if timed_in is not None:  # in PyTorch there are the columns that there always were
        columns |= {"latency_in": timed_in.words, "latency_error": row.no_latency}
    return columns


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return table.getvalue()
