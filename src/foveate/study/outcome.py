"""What a study came to, as a notebook and a terminal show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foveate.study.answer import answer, failures
from foveate.study.numbers import show_ms, show_number, show_value
from foveate.study.results import Results, Row
from foveate.study.statistics import Verdict


@dataclass(frozen=True, repr=False)
class StudyResult:
    """What a study came to; its representation is a table, the verdict and the report's path.

    Attributes:
        results: the plan, the environment, and a row for each thing compared, the best first.
        verdict: what the scores allow one to say.
        failures: what went wrong, one line each.
        report: the page, or its address; the directory that it lies in holds everything else.
    """

    results: Results
    verdict: Verdict
    failures: list[str]
    report: Path | str

    @property
    def head(self) -> tuple[str, ...]:
        """The titles of the table's columns."""
        name = self.results.metric.words
        timed_in = self.results.timed_in
        latency = f"latency in {timed_in.title}" if timed_in else "latency"
        return ("attention", f"{name}, 95 %", "params", "mult-adds", latency, "memory")

    @property
    def table(self) -> list[tuple[str, ...]]:
        """A line for each thing compared."""
        return [_line(row) for row in self.results.rows]

    def __repr__(self) -> str:
        lines = [self.head, *self.table]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*table, "", *self.sentences, f"report: {self.report}"])

    @property
    def sentences(self) -> list[str]:
        """The answer, what failed, and what is to be known before believing a number."""
        data = self.results.data
        said_before = () if data is None else data.findings.warnings  # when images were read
        said = [answer(self.results, self.verdict), failures(self.results)]
        return [
            *filter(None, said),
            *(f"failed: {line}" for line in self.failures),
            *(f"warning: {line}" for line in self.results.warnings if line not in said_before),
        ]


def _line(row: Row) -> tuple[str, ...]:
    if row.estimate is None:
        return (row.label, "failed", "", "", "", "")
    return (
        row.label,
        _score(row),
        "-" if row.parameters is None else f"{row.parameters / 1e6:#.3g} M",
        "-" if row.multiply_adds is None else f"{row.multiply_adds / 1e6:#.3g} M",
        "-" if row.latency is None else f"{show_ms(row.latency.median)} ms",
        "-" if row.peak_memory_mb is None else f"{_megabytes(row.peak_memory_mb)} MB",
    )


def _megabytes(number: float) -> str:
    return f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def _score(row: Row) -> str:
    found, metric = row.estimate, row.metric
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{show_value(found.mean, metric)} (one seed)"
    low, high = show_number(found.low, metric), show_number(found.high, metric)
    return f"{show_value(found.mean, metric)} ({low} to {high})"
