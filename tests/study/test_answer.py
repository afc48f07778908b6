"""The sentence that answers the question, and what the terminal prints beside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from foveate.cli._printing import print_table
from foveate.study.answer import answer, failures
from foveate.study.entry import Entry
from foveate.study.outcome import StudyResult
from foveate.study.records import Latency, Measurement
from foveate.study.results import read_results
from foveate.study.statistics import judge
from tests.study.test_report import begin, trial

CONTROL = (0.951, 0.955, 0.949)


def result(
    root: Path,
    *slide: float | None,
    control: tuple[float, ...] = CONTROL,
    controls: tuple[str, ...] = ("none", "depthwise_conv"),
) -> StudyResult:
    """A study of one mechanism with these scores by seed, None where the trial failed."""
    entries = tuple(Entry(name, control=True) for name in controls)
    run = begin(root, "slide", "cbam", seeds=tuple(range(len(slide))), controls=entries)
    for seed, score in enumerate(slide):
        error = "out of memory" if score is None else None
        run.records.write_trial(trial("slide", seed, score, error=error))
        for name in controls or ("cbam",):
            run.records.write_trial(trial(name, seed, control[seed]))
    for name in ("slide", *controls):
        latency = Latency(1234.5, 1.0, 2000.0, 16, 9, (1.0, 2.0), 1.0, 2000.0)
        run.records.write_measurement(Measurement(name, latency, 1024.5, 1, 1, 1, "a processor"))
    results = read_results(run.root, run.plan)
    verdict = judge(results.scores, results.controls, results.metric)
    return StudyResult(results, verdict, results.failures, run.root / "report.html")


@pytest.mark.parametrize(
    ("slide", "said"),
    [
        ((0.985, 0.989, 0.984), "Yes: slide is 3.4 points above depthwise convolution in held-out "
         "accuracy (95 % interval +3.3 to +3.6 points; 3 seeds)."),
        ((0.911, 0.915, 0.908), "No: every mechanism is worse than the controls; slide is 4.0 "
         "points below depthwise convolution"),
        ((0.985, 0.925, 0.954), "Not shown: slide is 0.3 points above depthwise convolution in "
         "held-out accuracy (95 % interval -"),
    ],
)  # fmt: skip
def test_the_answer_comes_first_with_its_uncertainty(tmp_path, slide, said):
    found = result(tmp_path, *slide)
    assert answer(found.results, found.verdict).startswith(said)
    assert found.sentences[0] == answer(found.results, found.verdict)
    assert said in repr(found)


@pytest.mark.parametrize(
    ("slide", "said"),
    [
        ((0.985, 0.989, 0.984), "slide is best: slide is 3.4 points above cbam in held-out "
         "accuracy (95 % interval +3.3 to +3.6 points; 3 seeds)."),
        ((0.985, 0.925, 0.954), "Which is best is not shown: slide is 0.3 points above cbam in "
         "held-out accuracy (95 % interval -"),
        ((0.949, 0.951, 0.955), "Which is best is not shown: cbam and slide have the same held-out "
         "accuracy (95 % interval of the difference -"),
        ((0.951, 0.955, 0.949), "No difference could be tested; cbam and slide have the highest"),
    ],
)  # fmt: skip
def test_without_a_control_the_best_is_named_only_if_it_is_shown(tmp_path, slide, said):
    found = result(tmp_path, *slide, controls=())
    assert answer(found.results, found.verdict).startswith(said)


def test_what_no_mechanism_can_reach_is_not_promised(tmp_path):
    found = result(tmp_path, 0.99, 0.91, 0.98)
    assert answer(found.results, found.verdict).endswith(
        "which chance explains. This study can show no mechanism to be better than depthwise "
        "convolution: none can be more than 4.8 points better."
    )


def test_one_seed_gives_no_more_than_the_verdict(tmp_path):
    found = result(tmp_path, 0.9)
    assert answer(found.results, found.verdict) == found.verdict.headline


def test_failed_trials_are_named_beside_the_answer(tmp_path):
    found = result(tmp_path, 0.985, None, 0.984)
    said = "1 of 9 trials failed: slide (seed 1); the others are what is compared."
    assert failures(found.results) == said
    assert found.sentences[1:3] == [said, "failed: slide, seed 1: out of memory"]
    assert failures(result(tmp_path / "whole", 0.9).results) is None


def test_the_table_fits_eighty_columns(tmp_path, capsys, monkeypatch):
    """Long names are folded there; what is piped elsewhere keeps a line a row."""
    found = result(tmp_path, 0.985, 0.989, 0.984)
    print_table(found.head, found.table, right=True)
    piped = capsys.readouterr().out
    assert "depthwise convolution" in piped
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(found.head, found.table, right=True)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # without colours
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    for row in found.table:
        assert all(cell in shown for cell in row[1:])
    assert "1,234 ms" in shown
