"""Numbers of one plan are never reported under another, nor damaged records taken for good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foveate.cli import main
from foveate.study.provenance import OtherPlanError
from foveate.study.records import PREDICTIONS, DamagedRunError, Predictions, Records
from foveate.study.results import read_results
from foveate.study.run import Run
from tests.study.test_records import RUN_0_1


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    arguments = [
        "--data", "digits", "--limit", 64, "--epochs", 1, "--image-size", 16, "--seeds", 1,
        "--workers", 1, "--threads", 1, "--controls", "none", "--out", run,
    ]  # fmt: skip
    entry = "attention=[{name: multi_head, label: mine, kwargs: {num_heads: 2}}]"
    assert main(["compare", *map(str, arguments), "--set", entry]) == 0
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def edit(run: Path, **settings: Any) -> None:
    path = run / "plan.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))


def resumed(run: Path, capsys) -> str:
    """The line with which going on is refused; nothing on disk changes."""
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--resume", str(run)])
    assert caught.value.code == 2
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


OPTIONS = [{"name": "multi_head", "label": "mine", "kwargs": {"num_heads": 4}}]


@pytest.mark.parametrize("noted", [True, False], ids=["run", "trial"])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lr", 0.5, "lr was 0.002 and is 0.5"),
        ("epochs", 2, "epochs was 1 and is 2"),
        ("limit", 32, "limit was 64 and is 32"),
        ("start", "plain", "start was 'identity' and is 'plain'"),
        ("metric", "balanced_accuracy", "metric was 'accuracy' and is 'balanced_accuracy'"),
        ("host", "resnet18", "host was 'pyramid_pico' and is 'resnet18'"),
        ("attention", OPTIONS, "options was {'num_heads': 2} and is {'num_heads': 4}"),
    ],
)
def test_numbers_of_another_plan_are_refused(run, capsys, key, value, said, noted):
    if not noted:  # what a trial itself keeps is enough
        (run / "settings.json").unlink()
    edit(run, **{key: value})
    line = resumed(run, capsys)
    assert f"{said} in {run / 'plan.yaml'}; set it back, or compare anew" in line
    opened = Run.open(run)
    with pytest.raises(OtherPlanError, match="was made under another plan"):
        read_results(run, opened.plan)


def test_images_of_another_plan_are_refused_before_any_trial_is_over(run, capsys):
    shutil.rmtree(run / "trials")
    edit(run, limit=32)
    assert "limit was 64 and is 32" in resumed(run, capsys)


def test_what_changes_no_number_may_be_edited(run):
    before = read_results(run, Run.open(run).plan).scores
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    edit(run, workers=2, trial_minutes=5.0, seeds=2, attention=[*plan["attention"], "cbam"])
    after = read_results(run, Run.open(run).plan).scores
    assert {k: v[0].tolist() for k, v in after.items()} == {
        k: v[0].tolist() for k, v in before.items()
    }


@pytest.mark.slow
def test_a_study_grows_by_seeds_and_mechanisms(run):
    edit(run, workers=2, trial_minutes=5.0, seeds=[0, 1], cache="none")
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    edit(run, attention=[*plan["attention"], "cbam"])
    stamp = (run / "trials" / "mine-seed0" / "trial.json").stat().st_mtime_ns
    assert main(["compare", "--resume", str(run)]) == 0
    assert (run / "trials" / "mine-seed0" / "trial.json").stat().st_mtime_ns == stamp
    assert len(list(run.glob("trials/*/trial.json"))) == 6
    assert set(json.loads((run / "settings.json").read_text())["rows"]) == {"mine", "none", "cbam"}


def test_a_row_may_become_a_control(run):
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    edit(run, attention=[], controls=[*plan["controls"], *plan["attention"]])
    results = read_results(run, Run.open(run).plan)
    assert all(row.control for row in results.rows)


def test_a_trial_of_an_earlier_version_is_checked_by_what_it_says(tmp_path, capsys):
    run = shutil.copytree(RUN_0_1, tmp_path / "run")
    said = " ".join(read_results(run, Run.open(run).plan).warnings)
    assert "6 of 6 trials are of an earlier version, which did not record their settings" in said
    edit(run, epochs=77)
    assert "and is 77" in resumed(run, capsys)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": "many"}, "parameters is 'many', where a whole number"),
        ({"metric": "loss"}, "metric is 'loss', where an object is expected"),
        ({"score": 0.987}, "score is 0.987, and predictions.npz beside it gives"),
        ({"score": 1.5}, "score is 1.5, where accuracy lies in 0 to 1"),
        ({"score": float("nan")}, "score is nan, where a finite number"),
        ({"seed": 1}, "seed is 1, where 0 is expected"),
        ({"attention": "cbam"}, "attention is 'cbam', where 'mine' is expected"),
        ({"mechanism": "cbam"}, "mechanism is 'cbam', where 'multi_head' is expected"),
        ({"epochs": 7}, "epochs is 7, where 1 is expected"),
        ({"status": "dun"}, "status is 'dun', where done or failed"),
    ],
)
def test_a_trial_changed_by_hand_is_damaged(run, capsys, changes, said):
    path = run / "trials" / "mine-seed0" / "trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    line = resumed(run, capsys)
    assert f"{path} is damaged ({said}" in line
    assert f"remove it and go on with: foveate compare --resume {run}" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p._replace(predicted=p.predicted * 0 + 999), "class 999 is predicted, of 10"),
        (lambda p: Predictions(*(array[:-1] for array in p)), "images, where 16 are held out"),
        (lambda p: p._replace(predicted=p.predicted[:-1]), "arrays of shapes"),
        (lambda p: p._replace(labels=p.labels[::-1]), "labels are not those of the held-out"),
        (lambda p: p._replace(images=p.images[::-1]), "images are not the held-out ones in order"),
        (lambda p: p._replace(predicted=p.predicted / 2), "whole numbers"),
    ],
)
def test_predictions_that_are_not_the_study_s_are_damaged(run, change, said):
    records = Records(run)
    found = records.predictions("mine", 0)
    assert found is not None
    records.write_predictions("mine", 0, change(found))
    with pytest.raises(DamagedRunError, match=said) as caught:
        read_results(run, Run.open(run).plan)
    assert str(run / "trials" / "mine-seed0" / PREDICTIONS) in str(caught.value)
    assert np.array_equal(found.images, np.arange(16))


def test_predictions_that_are_gone_are_said(run, capsys):
    (run / "trials" / "mine-seed0" / PREDICTIONS).unlink()
    assert "predictions.npz beside it is missing" in resumed(run, capsys)


@pytest.mark.parametrize("folder", ["measured", "views"])
def test_a_file_of_another_row_is_not_taken_for_its_own(run, folder):
    mine = next(file for file in (run / folder).glob("*.json") if file.stem != "none")
    shutil.copy(run / folder / "none.json", mine)
    with pytest.raises(DamagedRunError, match=r"it is of 'none', where '\w+' is expected"):
        read_results(run, Run.open(run).plan)
