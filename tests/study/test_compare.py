"""``foveate compare``, end to end on small studies."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

import foveate
from foveate.cli import main
from foveate.study.lock import lock
from foveate.study.plan import load_plan
from foveate.study.results import read_results
from tests.data.folders import make_blocks, make_folder, truncate

OWN = str(Path(__file__).with_name("mechanisms_for_tests.py"))
SMALL = [
    "--data",
    "digits",
    "--limit",
    "128",
    "--epochs",
    "2",
    "--image-size",
    "16",
    "--imports",
    OWN,
]


def compare(*arguments: object) -> int:
    try:
        return main(["compare", *map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert compare(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert error.startswith("foveate: ")
    return error


def numbers(run: Path) -> dict[str, object]:
    """All that a study came to but times."""
    found = {}
    for file in sorted(run.glob("trials/*/trial.json")):
        trial = json.loads(file.read_text())
        for key in [k for k in trial if k.startswith("train_")]:
            del trial[key]
        for epoch in trial["history"]:
            del epoch["seconds"]
        weights = load_file(file.with_name("model.safetensors"))
        trial["weights"] = {k: float(v.double().sum()) for k, v in weights.items()}
        found[file.parent.name] = trial
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A finished study: one mechanism, one gate, one control, two seeds."""
    run = tmp_path_factory.mktemp("study") / "run"
    code = compare(
        *SMALL,
        "--attention",
        "multi_head",
        "cbam",
        "--controls",
        "none",
        "--seeds",
        2,
        "--out",
        run,
    )
    assert code == 0
    return run


def test_a_study_leaves_its_whole_result(study):
    plan = yaml.safe_load((study / "plan.yaml").read_text())
    assert plan["attention"] == ["multi_head", "cbam"]
    assert plan["seeds"] == [0, 1]
    environment = json.loads((study / "environment.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["threads"] == plan["threads"]
    assert (study / "report.html").stat().st_size > 1000
    with open(study / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(json.loads((study / "results.json").read_text())) == 6
    assert [row["attention"] for row in rows[::2]] == ["multi_head", "cbam", "none"]
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    assert all(row["status"] == "done" for row in rows)


def test_a_trial_holds_to_its_schema(study):
    trial = json.loads((study / "trials" / "cbam-seed1" / "trial.json").read_text())
    assert trial["role"] == "gate"
    assert trial["family"] == "gates"
    assert (trial["seed"], trial["host"], trial["epochs"]) == (1, "pyramid_pico", 2)
    assert 0 <= trial["score"] <= 1
    assert [e["epoch"] for e in trial["history"]] == [1, 2]
    assert set(trial["history"][0]) == {"epoch", "train_loss", "loss", "score", "seconds"}
    assert trial["parameters"] > 1e5
    assert trial["multiply_adds"] > 1e5
    assert trial["metric"] == {
        "name": "accuracy", "unit": "%", "higher_is_better": True, "bounds": [0.0, 1.0]
    }  # fmt: skip
    history = json.loads((study / "trials" / "cbam-seed1" / "history.json").read_text())
    assert history == trial["history"]
    measured = json.loads((study / "measured" / "cbam.json").read_text())
    latency = measured["latency_ms"]
    assert len(latency["processes"]) == 3
    assert latency["low"] <= latency["median"] <= latency["high"]
    assert min(latency["processes"]) <= latency["median"] <= max(latency["processes"])


def test_attention_maps_sum_to_one(study):
    view = json.loads((study / "views" / "multi_head.json").read_text())
    assert view["layers"][0]["measure"] == "weights"
    for layer in view["layers"]:
        assert np.sum(layer["map"]) == pytest.approx(1, abs=1e-3)
    assert not json.loads((study / "views" / "none.json").read_text())["layers"]


def test_pixels_are_given_back_and_the_index_is_kept(study):
    assert [p.name for p in (study / "data").iterdir()] == ["index.json"]


def test_a_finished_study_runs_nothing_again(study, capsys):
    before = {p: p.stat().st_mtime_ns for p in study.glob("trials/*/*")}
    assert compare("--resume", study) == 0
    assert "report:" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in study.glob("trials/*/*")}


def test_the_saved_plan_gives_the_same_numbers(study, tmp_path):
    again = tmp_path / "again"
    assert compare("--plan", study / "plan.yaml", "--seeds", 1, "--workers", 1, "--out", again) == 0
    expected = {k: v for k, v in numbers(study).items() if k.endswith("seed0")}
    assert numbers(again) == expected


def test_one_call_from_python_does_the_same(study, tmp_path, capsys):
    result = foveate.compare(
        attention=["cbam"], controls=[], seeds=[1], data="digits", limit=128, epochs=2,
        image_size=16, workers=1, threads=1, out=tmp_path / "run",
    )  # fmt: skip
    name = "cbam-seed1"
    assert numbers(tmp_path / "run") == {name: numbers(study)[name]}
    assert result.report == tmp_path / "run" / "report.html"
    text = repr(result)
    assert text.endswith(f"report: {result.report}")
    assert "cbam" in text
    assert f"{100 * result.results.rows[0].scores[1]:.1f} % (one seed)" in text
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["command"] is None
    assert "foveate compare --plan plan.yaml" in result.report.read_text()
    assert f"run directory: {tmp_path / 'run'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch' in the settings; did you mean 'epochs'"),
        ({"plan": {"epoch": 3}}, "unknown key 'epoch' in the plan; did you mean 'epochs'"),
        ({"attention": ["slidee"], "seeds": 1}, "unknown attention 'slidee'; did you mean"),
        ({"plan": ["slide", "cbam"]}, "plan must be a Plan, a mapping or the path .* got list"),
        ({"resume": "x", "epochs": 3}, "resume goes on with the plan of the run; leave out 'ep"),
    ],
)
def test_a_wrong_call_is_refused_as_the_command_would(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        foveate.compare(**settings)
    assert not list(tmp_path.glob("runs/*"))


def test_a_damaged_trial_is_one_line(study, tmp_path, capsys):
    run = shutil.copytree(study, tmp_path / "run")
    path = run / "trials" / "cbam-seed1" / "trial.json"
    path.write_text(path.read_text()[:40])
    line = refused(capsys, "--resume", run)
    assert f"{path} is damaged" in line
    assert f"remove it and go on with: foveate compare --resume {run}" in line
    path.unlink()
    assert compare("--resume", run) == 0
    assert numbers(run) == numbers(study)


def test_another_plan_is_refused_in_the_same_directory(study, capsys):
    before = numbers(study)
    line = refused(capsys, *SMALL, "--attention", "multi_head", "--out", study)
    assert "belongs to another plan" in line
    assert numbers(study) == before


def test_what_breaks_in_one_trial_breaks_no_other(tmp_path, capsys):
    run = tmp_path / "run"
    code = compare(
        *SMALL, "--attention", "raises", "exits", "starves", "crashes", "works", "--controls",
        "--seeds", 1, "--out", run,
    )  # fmt: skip
    assert code == 1
    errors = {
        name: json.loads((run / "trials" / f"{name}-seed0" / "trial.json").read_text())["error"]
        for name in ("raises", "exits", "starves", "crashes", "works")
    }
    assert errors["raises"] == "RuntimeError: the third step is too much"
    assert errors["exits"] == "the process ended by itself with exit code 7"
    assert errors["starves"] == "out of memory: MemoryError"
    assert errors["crashes"].startswith("the process was ended by SIGKILL")
    assert errors["works"] is None
    broken = json.loads((run / "trials" / "exits-seed0" / "trial.json").read_text())
    assert (broken["role"], broken["family"], broken["status"]) == ("mixer", "test", "failed")
    assert "Traceback" in (run / "trials" / "raises-seed0" / "log.txt").read_text()
    assert "RuntimeError: the third step is too much" in (run / "results.csv").read_text()
    out = capsys.readouterr().out
    assert "failed: exits, seed 0: the process ended by itself with exit code 7" in out
    assert (run / "report.html").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    line = refused(
        capsys, *SMALL, "--attention", "works", "fills_disk", "--controls", "--seeds", 1,
        "--workers", 1, "--out", run,
    )  # fmt: skip
    assert "the disk is full" in line
    assert f"foveate compare --resume {run}" in line
    trial = json.loads((run / "trials" / "works-seed0" / "trial.json").read_text())
    assert trial["status"] == "done"
    assert not list(run.rglob(".*.tmp"))


def test_a_run_directory_is_one_process_s(study, capsys):
    with lock(study / ".lock", 0) as ours:
        assert ours
        assert "another process is at work" in refused(capsys, "--resume", study)


def test_a_folder_of_images_with_bad_files(tmp_path, capsys):
    folder = make_folder(tmp_path / "data", {"cat": 30, "dog": 30})
    truncate(folder / "cat" / "0.png")
    (folder / "dog" / "notes.txt").write_text("x")
    run = tmp_path / "run"
    code = compare(
        "--data", folder, "--attention", "works", "--controls", "--seeds", 1, "--epochs", 3,
        "--image-size", 16, 24, "--batch-size", 16, "--imports", OWN, "--out", run,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    assert "skipped 2 unreadable files: cat/0.png" in out
    trial = json.loads((run / "trials" / "works-seed0" / "trial.json").read_text())
    assert trial["score"] > 0.8
    skipped = json.loads((run / "data" / "index.json").read_text())["skipped"]
    assert {s["file"] for s in skipped} == {"cat/0.png", "dog/notes.txt"}


OPTIONS = [
    "--metric", "balanced_accuracy", "--folds", 2, "--tune", "lr", "--lr-grid", 0.002, 0.0001,
    "--select", "best", "--duplicates", "leave_out", "--cache", "none", "--trial-minutes", 9,
]  # fmt: skip


def test_folds_tuning_selection_and_the_images_kept_for_the_very_end(tmp_path, capsys):
    folder = make_blocks(tmp_path / "data", 20, ("train", "val", "test"))
    run = tmp_path / "run"
    code = compare(
        "--data", folder, "--attention", "works", "--controls", "none", "--seeds", 2, "--epochs", 3,
        "--image-size", 16, "--batch-size", 8, "--imports", OWN, *OPTIONS, "--out", run,
    )  # fmt: skip
    assert code == 0
    results = read_results(run, load_plan(run / "plan.yaml"))
    for row in results.rows:
        # The learning rate: the same grid for all, on a part of what is trained on.
        assert [tried.lr for tried in row.tuning.tried] == [0.0001, 0.002]
        assert (row.tuning.images, row.tuning.selection) == (32, 8)
        best = max(tried.score for tried in row.tuning.tried)
        assert next(t.score for t in row.tuning.tried if t.lr == row.tuning.lr) == best
        assert row.tuning.seconds > 0
        for seed, trial in row.done.items():
            assert trial.lr == row.tuning.lr
            assert 1 <= trial.reported_epoch <= 3
            assert [epoch.epoch for epoch in trial.history] == [1, 2, 3]
            # Every image of train and val was held out once, those of test never.
            found = row.predictions[seed]
            assert found.images.tolist() == list(range(80))
            assert np.bincount(found.labels).tolist() == [40, 40]
            recalls = [found.correct[found.labels == k].mean() for k in (0, 1)]
            assert trial.score == pytest.approx(np.mean(recalls))
            assert row.image_scores[seed].mean() == pytest.approx(trial.score)
            assert len(row.final_predictions[seed].labels) == 40
        assert row.confusion.sum() == 2 * 80
        assert row.estimate.images == 80
        assert row.final.images == 40
    assert results.metric.name == "balanced_accuracy"
    assert [p.name for p in run.glob("tuned/*") if p.suffix == ".json"] != []
    assert not list(run.rglob("last.ckpt"))
    assert not list(run.rglob("best.safetensors"))
    assert "balanced accuracy" in capsys.readouterr().out
    # Used once: going on does not measure them again.
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("final.npz")}
    assert len(stamps) == 4
    assert compare("--resume", run) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("final.npz")} == stamps


def test_a_trial_that_takes_too_long_is_stopped_and_the_others_go_on(tmp_path, capsys):
    run = tmp_path / "run"
    code = compare(
        *SMALL, "--attention", "sleeps", "works", "--controls", "--seeds", 1, "--trial-minutes",
        0.2, "--out", run,
    )  # fmt: skip
    assert code == 1
    trial = json.loads((run / "trials" / "sleeps-seed0" / "trial.json").read_text())
    assert trial["error"] == "stopped after 0.2 minutes, as trial_minutes says"
    done = json.loads((run / "trials" / "works-seed0" / "trial.json").read_text())
    assert done["status"] == "done"


def test_a_loss_that_is_no_number_is_a_failed_trial_that_says_so(tmp_path, capsys):
    run = tmp_path / "run"
    code = compare(*SMALL, "--attention", "diverges", "works", "--controls", "--seeds", 1,
                   "--out", run)  # fmt: skip
    assert code == 1
    trial = json.loads((run / "trials" / "diverges-seed0" / "trial.json").read_text())
    assert trial["error"] == "the loss is not finite in epoch 1"
    assert trial["health"]["diverged"]
    assert "diverges, seed 0: the loss is not finite" in capsys.readouterr().out


ONE = ["--seeds", 1, "--controls"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "slidee", *ONE], "unknown attention 'slidee'; did you mean 'slide'"),
        (["--attention", "cbam,slide", *ONE], "unknown attention 'cbam,slide': separate names by"),
        (["--attention", "cbam", "reduction=8", *ONE], "write it as NAME:reduction=8"),
        (["--controls", "nothing"], "unknown control 'nothing'; did you mean 'none'"),
        (["--attention", "additive", *ONE], "additive is an aligner"),
        (["--attention", "cbam", "--host", "pyramid_pic", *ONE], "unknown host 'pyramid_pic'; did"),
        (["--attention", "cbam", "--host", "resnet18", *ONE], "host resnet18 has no place"),
        (["--attention", "multi_head:num_head=2", *ONE], "did you mean 'num_heads'"),
        (["--attention", "multi_head:num_heads=5", *ONE], "num_heads=5"),
        (["--attention", "cbam", "--set", "optimizer=adamz", *ONE], "unknown optimizer 'adamz'"),
        (["--attention", "cbam", "--set", "augment=x", *ONE], "unknown augment 'x'"),
        (["--attention", "cbam", "--imports", "nowhere.py", *ONE], "nowhere.py"),
        (["--imports", "nope"], "imports names 'nope', and there is no such module here"),
        (["--attention", "slide:kernelsize=3", *ONE], "did you mean 'kernel_size'"),
        (["--attention", "cbam", "--host-kwargs", "dept=1", *ONE], "did you mean 'depths'"),
        (["--attention", "cbam", "--augment-kwargs", "hflip=x", *ONE], "hflip='x' does not work"),
        (["--set", "schedul=x"], "unknown key 'schedul'"),
        (["--set", "x"], "--set takes KEY=VALUE"),
        (["--data", "/no/such/folder"], "does not exist"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available here"),
        (["--plan", "/no/such/plan.yaml"], "does not exist"),
        (["--resume", "/no/such/run"], "is no run directory"),
        (["--resume", "x", "--epochs", 3], "leave out 'epochs'"),
        (["--epochs", "x"], "epochs"),
        (["--nonsense"], "unknown option --nonsense"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    where = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    assert message in refused(capsys, *arguments, *where)
    assert not (tmp_path / "run").exists()


def test_a_wrong_plan_is_refused_before_the_images_are_read(tmp_path, capsys):
    data = ["--data", tmp_path / "no images"]
    assert "did you mean 'slide'" in refused(capsys, "--attention", "slid", *ONE, *data)


def test_a_plan_with_a_typo_names_the_key_and_the_nearest(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("epoch: 3\n")
    line = refused(capsys, "--plan", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert "unknown key 'epoch'" in line
    assert "'epochs'" in line


def test_a_directory_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert "is no run directory" in refused(capsys, "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


KILLED = [
    "--attention", "cbam", "--controls", "none", "--seeds", "2", "--limit", "128", "--epochs", "3",
    "--image-size", "16", "--data", "digits",
]  # fmt: skip


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "foveate", "compare", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(*arguments: object) -> None:
    process = start(*arguments)
    _, error = process.communicate(timeout=280)
    assert process.returncode == 0, error.decode()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(*KILLED, "--out", run)
    return run


def kill_and_resume(run: Path, undisturbed: Path, delay: float) -> int:
    """Kill a study ``delay`` seconds after its first trial began; returns the trials it had."""
    process = start(*KILLED, "--out", run)
    while not list(run.glob("trials/*/log.txt")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    finished = list(run.glob("trials/*/trial.json"))
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    finish("--resume", run)
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    assert numbers(run) == numbers(undisturbed)
    for file in run.glob("trials/*/predictions.npz"):
        theirs = undisturbed / file.relative_to(run)
        assert file.read_bytes() == theirs.read_bytes()
    left = [file.name for file in run.rglob("*") if file.suffix in (".tmp", ".ckpt")]
    assert not left
    return len(finished)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_kill_and_resume_ends_in_the_same_numbers(tmp_path, undisturbed):
    kill_and_resume(tmp_path / "run", undisturbed, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_kill_and_resume_at_fifty_random_moments(tmp_path, undisturbed):
    rng = np.random.default_rng()
    for number, delay in enumerate(rng.uniform(0, 8, 50)):
        finished = kill_and_resume(tmp_path / str(number), undisturbed, delay)
        print(f"killed after {delay:.2f} s with {finished} of 4 trials finished: equal")
