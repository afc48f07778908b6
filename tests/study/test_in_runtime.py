"""Latency in another runtime: measured there, or said why not, and never PyTorch's in its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

import foveate
from foveate.study.entry import PlanError
from foveate.study.measuring import measurement
from foveate.study.plan import load_plan, read_plan
from foveate.study.records import Counts, InRuntime, Records
from foveate.study.results import read_results
from tests.data import annotated
from tests.data.masks import make_scenes

pytest.importorskip("onnxruntime")

OWN = str(Path(__file__).with_name("mechanisms_for_tests.py"))
NARROW = {"host_kwargs": {"dims": [16, 24, 32, 32], "depths": [1, 1, 1, 1]}}
SMALL = {
    "data": "digits", "limit": 64, "epochs": 1, "image_size": 16, "workers": 1, "threads": 1,
    "seeds": 1, "imports": [OWN], "controls": ["none"], **NARROW,
}  # fmt: skip
MADE = InRuntime("ONNX Runtime", "1.30.0", "float32", 2, "a processor", 1e-7, None, ("a note",))
COUNTS = Counts(10, 20, 3_000_000, 1, "a processor")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One row that can be exported, and one that cannot."""
    out = tmp_path_factory.mktemp("study") / "run"
    return foveate.compare(attention=["undeployable"], latency="onnxruntime", out=out, **SMALL)


def test_latency_is_that_of_the_exported_file(study):
    row = next(row for row in study.results.rows if row.control)
    made = row.measured.in_runtime
    assert (made.runtime, made.threads, made.precision) == ("ONNX Runtime", 1, "float32")
    assert made.difference < 1e-4
    assert row.latency.batch == 1
    assert len(row.latency.processes) == 3
    assert not Records(study.results.root).exported.exists()


def test_a_model_that_cannot_be_exported_has_no_latency_and_says_why(study):
    row = next(row for row in study.results.rows if not row.control)
    assert row.latency is None
    assert "torch.export cannot record the model" in row.no_latency
    assert row.peak_memory_mb > 0
    said = f"undeployable has no latency in ONNX Runtime: {row.no_latency}"
    assert said in study.results.warnings
    assert said in repr(study)
    assert study.failures == []


def test_report_tables_and_terminal_name_the_runtime(study):
    page = (study.results.root / "report.html").read_text()
    assert "ms an image, ONNX Runtime, 1 thread" in page  # the column
    assert "latency in ONNX Runtime, 1 thread, ms an image" in page  # the axis
    assert "median time of 1 image in ONNX Runtime" in page
    assert "latency in ONNX Runtime, 1 thread" in study.head
    lines = list(csv.DictReader((study.results.root / "summary.csv").open()))
    assert all(line["latency_in"].startswith("ONNX Runtime") for line in lines)
    assert sorted(bool(line["latency_error"]) for line in lines) == [False, True]
    assert [bool(line["latency_ms"]) for line in lines] == [
        not line["latency_error"] for line in lines
    ]


def test_going_on_measures_nothing_again_and_another_runtime_is_refused(study):
    root = study.results.root
    before = {path: path.stat().st_mtime_ns for path in (root / "measured").glob("*.json")}
    again = foveate.compare(resume=root)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.results.timed_in == study.results.timed_in
    with pytest.raises(PlanError, match="leave out 'latency'"):
        foveate.compare(resume=root, latency="torch")
    plan = root / "plan.yaml"
    text = plan.read_text()
    plan.write_text(yaml.safe_dump({**yaml.safe_load(text), "latency": "torch"}))
    try:
        with pytest.raises(ValueError, match="latency was 'onnxruntime' and is 'torch'"):
            read_results(root, load_plan(plan))
    finally:
        plan.write_text(text)


def test_a_missing_package_names_its_extra_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.deploy.format._is_installed", lambda name: False)
    with pytest.raises(PlanError, match=r"latency is openvino.*pip install 'foveate\[openvino\]'"):
        foveate.compare(attention=["works"], latency="openvino", out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_what_the_setting_takes():
    with pytest.raises(PlanError, match="did you mean 'onnxruntime'"):
        read_plan({"latency": "onnxruntim"})
    with pytest.raises(PlanError, match="match cannot be latency, which hosts are matched by in"):
        read_plan({"latency": "onnxruntime", "match": "latency"})


@pytest.mark.parametrize("made", [MADE, MADE._replace(error="no operator", difference=None)])
def test_the_record_reads_back(made, tmp_path):
    from foveate.analysis.profile import Passes

    passes = [] if made.error else [Passes([1.0, 2.0, 3.0], 0.6)] * 3
    found = measurement("a", COUNTS, passes, None, made)
    assert (found.latency_ms is None) == (made.error is not None)
    if found.latency_ms is not None:
        assert found.latency_ms.batch == 1
        assert found.energy_mj == pytest.approx(1e3 * 1.8 / 9)
    Records(tmp_path).write_measurement(found)
    assert Records(tmp_path).measurement("a") == found
    assert made.title == "ONNX Runtime, 2 threads"


def test_in_pytorch_the_record_is_as_it_was(tmp_path):
    from foveate.analysis.profile import Passes

    Records(tmp_path).write_measurement(measurement("a", COUNTS, [Passes([1.0], None)]))
    assert "in_runtime" not in json.loads((tmp_path / "measured" / "a.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_dense_predictions(task, tmp_path):
    if task == "segmentation":
        data = make_scenes(tmp_path / "set", {"train": 12, "val": 4}, (32, 40), side=16)
        size, head = [32, 40], {"neck_dim": 16, "dim": 16}
    else:
        data = annotated.make_coco(tmp_path / "set", train=9, val=4)
        size, head = [40, 60], {"dim": 16, "anchor_scale": 2.0}
    settings = {**SMALL, "data": str(data), "limit": None, "image_size": size, "head_kwargs": head}
    found = foveate.compare(
        task=task, attention=["cbam"], latency="onnxruntime", batch_size=4,
        augment="none", out=tmp_path / "run", **settings,
    )  # fmt: skip
    for row in found.results.rows:
        assert row.latency.median > 0
        assert row.measured.in_runtime.difference < 1e-4
    if task == "detection":
        assert any("without what finds objects" in note for note in found.results.notes)
        assert "without the postprocessing" in row.measured.in_runtime.notes[0]
        assert "without the postprocessing" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "executorch"])
def test_other_runtimes(runtime, tmp_path):
    pytest.importorskip(runtime)
    found = foveate.compare(attention=["cbam"], latency=runtime, out=tmp_path / "run", **SMALL)
    for row in found.results.rows:
        assert row.latency.median > 0
        assert row.measured.in_runtime.difference < 1e-4
