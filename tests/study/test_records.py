"""What a study writes is what it reads, and a damaged file is named with what to do."""

from __future__ import annotations

import csv
import json
import shutil
from math import inf
from pathlib import Path

import numpy as np
import pytest

import foveate
from foveate.data.sources.base import DataError
from foveate.metrics import ACCURACY, BALANCED_ACCURACY, Metric
from foveate.study.records import (
    FINAL_PREDICTIONS,
    AttentionMaps,
    DamagedRunError,
    Environment,
    EpochRecord,
    Health,
    Latency,
    LayerMap,
    Measurement,
    Predictions,
    Records,
    Resumption,
    Subject,
    TrialRecord,
    Tried,
    Tuning,
)
from foveate.study.results import read_results
from foveate.study.run import Run

RUN_0_1 = Path(__file__).with_name("run_0_1")
"""A run directory of 0.1: six trials, without checkpoints and weights."""

SUBJECT = Subject("window_a", "window", "window(a)", False, "mixer", "window")


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path)


@pytest.mark.parametrize("metric", [ACCURACY, Metric("error", "px", False, (0.0, inf))])
def test_a_trial_is_read_as_it_was_written(records, metric):
    history = tuple(EpochRecord(e, 2.0 / e, 1.0 / e, 0.25 * e, 0.5) for e in (1, 2, 3))
    done = TrialRecord(
        SUBJECT, 4, "pyramid_pico", 3, metric, None, 0.75, 0.5, history, 10, 20, 1.5, 99.0
    )
    records.write_trial(done)
    assert records.trial("window_a", 4) == done
    failed = TrialRecord(SUBJECT._replace(role=None), 5, "pyramid_pico", 3, metric, "no luck")
    records.write_trial(failed)
    assert records.trial("window_a", 5) == failed
    assert (done.status, failed.status) == ("done", "failed")
    assert records.trial("window_a", 6) is None


def test_the_other_files_are_read_as_they_were_written(records):
    history = [EpochRecord(1, 2.0, 1.0, 0.25, 0.5)]
    records.trial_folder("a", 0).mkdir(parents=True)
    records.write_history("a", 0, history)
    assert records.history("a", 0) == history
    measurement = Measurement("a", Latency(2.0, 1.0, 3.0, 16, 50), None, 10, 20, 2, "a processor")
    records.write_measurement(measurement)
    assert records.measurement("a") == measurement
    maps = AttentionMaps(SUBJECT, [[0, 255]], 16, (LayerMap("x", (0, 1), "weights", [[0.5, 0.5]]),))
    records.write_attention_maps(maps)
    assert records.attention_maps("window_a") == maps
    environment = Environment(
        "2026", "0.1.0", None, "3.12", {"torch": "2.15"}, "Linux", "a processor", 2, "cpu",
        "a processor", 2, 1, [0, 1], None, (Resumption("2027", ["torch was 1 and is 2"]),),
    )  # fmt: skip
    records.write_environment(environment)
    assert records.environment() == environment


def test_predictions_and_tuning_are_read_as_they_were_written(records):
    assert records.predictions("a", 0) is None
    assert records.tuning("a") is None
    records.trial_folder("a", 0).mkdir(parents=True)
    found = Predictions(
        np.array([2, 0, 1, 2], np.uint16), np.array([2, 1, 1, 0], np.uint16),
        np.arange(4, dtype=np.uint32),
    )  # fmt: skip
    records.write_predictions("a", 0, found)
    again = records.predictions("a", 0)
    assert all(np.array_equal(one, other) for one, other in zip(again, found, strict=True))
    assert again.predicted.dtype == np.uint16
    assert records.predictions("a", 0, FINAL_PREDICTIONS) is None
    assert again.correct.tolist() == [1, 0, 1, 0]
    assert again.confusion(3).tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert again.scores(BALANCED_ACCURACY).mean() == pytest.approx((0 + 0.5 + 1) / 3)
    tuning = Tuning("a", (Tried(0.1, 0.5, 2.0), Tried(0.2, None, 1.0)), 0.1, 80, 20)
    records.write_tuning(tuning)
    assert records.tuning("a") == tuning
    assert (tuning.seconds, tuning.at_edge) == (3.0, True)
    (records.trial_folder("a", 0) / "predictions.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DamagedRunError, match="beside it removed too"):
        records.predictions("a", 0)


def test_a_trial_keeps_its_health(records):
    health = Health(True, False, True, 0.03)
    trial = TrialRecord(
        SUBJECT, 4, "pyramid_pico", 3, ACCURACY, None, 0.75, 0.5, (), 10, 20, 1.5, 99.0, 0.002, 3,
        health,
    )  # fmt: skip
    records.write_trial(trial)
    assert records.trial("window_a", 4) == trial
    assert not health.learned


@pytest.fixture
def run_0_1(tmp_path) -> Path:
    return shutil.copytree(RUN_0_1, tmp_path / "run")


def test_a_run_directory_of_0_1_gives_its_report_and_the_same_table(run_0_1, capsys):
    result = foveate.compare(resume=run_0_1)
    assert (run_0_1 / "results.csv").read_text() == (RUN_0_1 / "results.csv").read_text()
    assert {row.label: round(row.estimate.mean, 6) for row in result.results.rows} == {
        "cbam": 0.25,
        "no attention": 0.25,
        "multi_head": 0.21875,
    }
    page = result.report.read_text()
    assert "Attention map of multi_head" in page
    assert "resumed" in page


def test_a_run_directory_of_0_1_that_is_not_finished_is_refused_and_kept(run_0_1):
    (run_0_1 / "trials" / "cbam-seed1" / "trial.json").unlink()
    kept = {path: path.read_bytes() for path in run_0_1.rglob("*.json") if "trials" in path.parts}
    with pytest.raises(DataError, match=r"another version of foveate, .* has to start anew"):
        foveate.compare(resume=run_0_1)
    assert all(path.read_bytes() == before for path, before in kept.items())


def test_one_spread_in_the_terminal_the_report_and_the_tables(run_0_1):
    result = foveate.compare(resume=run_0_1)
    with open(run_0_1 / "summary.csv") as file:
        lines = {line["attention"]: line for line in csv.DictReader(file)}
    line = lines["multi_head"]
    low, high = float(line["accuracy_low"]), float(line["accuracy_high"])
    assert (round(low, 3), round(high, 3)) == (0.0, 0.616)
    assert "21.9 % (0.0 to 61.6)" in repr(result)
    assert "0.0 to 61.6" in result.report.read_text()


@pytest.mark.parametrize(
    ("file", "then"),
    [
        ("trials/cbam-seed1/trial.json", "goes on from its last checkpoint"),
        ("measured/cbam.json", "measured again"),
        ("views/cbam.json", "measured/cbam.json removed too"),
        ("environment.json", "noted anew"),
        ("data/index.json", "images are then read again"),
    ],
)
@pytest.mark.parametrize("text", ['{"attention" "cbam"}', "{}", "[]", "\xff"])
def test_a_damaged_file_is_named_with_what_to_do(run_0_1, file, then, text):
    (run_0_1 / file).write_bytes(text.encode("latin-1"))
    run = Run.open(run_0_1)
    with pytest.raises(DamagedRunError) as caught:
        read_results(run.root, run.plan)
    message = str(caught.value)
    assert message.startswith(f"{run_0_1 / file} is damaged (")
    assert f"remove it and go on with: foveate compare --resume {run_0_1}" in message
    assert then in message


def test_a_trial_without_its_score_is_damaged(run_0_1):
    path = run_0_1 / "trials" / "cbam-seed1" / "trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": None}))
    with pytest.raises(DamagedRunError, match="damaged"):
        Records(run_0_1).trial("cbam", 1)
