"""``foveate compare --task segmentation``, end to end on small scenes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.cli import main
from foveate.metrics import MEAN_IOU
from foveate.study.disputed import disputed
from foveate.study.entry import PlanError
from foveate.study.plan import complete, load_plan, read_plan
from foveate.study.records import TRUTH
from foveate.study.report.labelled import painted, palette
from foveate.study.report.page import write_report
from foveate.study.results import read_results
from foveate.study.statistics import judge
from foveate.study.trial import build
from tests.data.masks import make_scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished study of one gate and one control, with images kept for the very end."""
    folder = tmp_path_factory.mktemp("segmentation")
    data = make_scenes(folder / "scenes", {"train": 24, "val": 5, "test": 4}, (32, 40), side=16)
    command = [
        "compare", "--task", "segmentation", "--data", str(data), "--attention", "cbam",
        "--controls", "none", "--seeds", "2", "--epochs", "5", "--batch-size", "4",
        "--image-size", "32", "40", "--lr", "0.02", "--workers", "1", "--threads", "1",
        "--augment", "none", "--head-kwargs", "neck_dim=16", "dim=16",
        "--host-kwargs", "dims=[16,24,32,32]", "depths=[1,1,1,1]", "--window", "32",
        "--dice", "0.5", "--class-weights", "balanced", "--out", str(folder / "run"),
    ]  # fmt: skip
    assert main(command) == 0
    return folder / "run"


def test_it_learns_and_its_scores_are_those_of_its_areas(run):
    results = read_results(run, load_plan(run / "plan.yaml"))
    assert results.metric == MEAN_IOU
    assert len(results.rows) == 2
    for row in results.rows:
        assert row.unhealthy is None
        assert row.estimate.mean > 0.4
        for seed, score in row.scores.items():
            assert row.predictions[seed].scores(MEAN_IOU).mean() == pytest.approx(score)
        assert row.final is not None
        assert row.confusion is None
        assert row.accuracy is None
    assert results.majority.name == "ground"
    assert results.majority.share < 1 / 3
    verdict = judge(results.scores, results.controls, results.metric, results.unhealthy)
    assert verdict.comparisons[0].images == 5
    lines = list(csv.DictReader((run / "summary.csv").open()))
    assert float(lines[0]["mean_iou"]) == pytest.approx(results.rows[0].estimate.mean)


def test_the_report_shows_classes_and_painted_pictures(run):
    page = (run / "report.html").read_text()
    assert "IoU by class" in page
    assert "always the same class" in page
    assert "predicted in overlapping windows of 32x32" in page
    results = read_results(run, load_plan(run / "plan.yaml"))
    found = disputed(results)
    assert found
    assert found[0].label == ""
    truth = results_truth(run)
    assert set(truth) == {one.image for one in found}
    assert page.count("<small>its mask</small>") == len(found)
    assert write_report(results, judge(results.scores, results.controls, results.metric)).exists()


def results_truth(run: Path) -> dict[int, np.ndarray]:
    from foveate.study.records import Records

    return Records(run).overlays(TRUTH)


def test_paint_leaves_pixels_that_do_not_count():
    colors = palette(None, 3)
    assert len(set(colors)) == 3
    assert palette([[1, 2, 3], [4, 5, 6]], 2) == [(1, 2, 3), (4, 5, 6)]
    pixels = np.full((2, 2, 3), 100, np.uint8)
    out = painted(pixels, np.array([[0, 1], [2, 255]]), colors)
    assert out[1, 1].tolist() == [100, 100, 100]
    assert out[0, 0].tolist() != out[0, 1].tolist()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "segmentaton"}, "segmentation"),
        ({"task": "segmentation"}, "needs data with masks, and data is characters"),
        ({"task": "segmentation", "data": "x", "metric": "accuracy"}, "is of another task"),
        ({"task": "segmentation", "data": "x", "mixup": 0.2}, "mixup is for task classification"),
        ({"head": "upernet"}, "head is for task segmentation"),
        ({"dice": 1.0}, "dice is for task segmentation"),
        ({"task": "segmentation", "data": "x", "ignore_label": -1}, "ignore_label must be"),
        ({"task": "segmentation", "data": "x", "class_weights": "rare"}, "class_weights must be"),
    ],
)
def test_settings_of_another_task_are_refused(settings, said):
    with pytest.raises(PlanError, match=said):
        read_plan(settings)


def test_mechanisms_stand_in_a_model_of_timms_below_the_head():
    settings = {"task": "segmentation", "data": "x", "host": "timm/resnet10t", "image_size": 64,
                "attention": ["cbam"], "at": "stage"}  # fmt: skip
    plan = complete(read_plan(settings))
    found = {}
    for entry in plan.entries:
        model = build(plan, entry, 3, 3).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 50, 70)).shape == (1, 3, 50, 70)
        found[entry.name] = sum(p.numel() for p in model.parameters())
    assert found["none"] < found["cbam"]


def test_the_metric_follows_the_task():
    assert read_plan({"task": "segmentation", "data": "x"}).metric == MEAN_IOU
    chosen = read_plan({"task": "segmentation", "data": "x", "metric": "mean_dice"})
    assert chosen.metric.name == "mean_dice"


def test_what_the_data_lack_is_one_line(tmp_path, capsys):
    data = make_scenes(tmp_path / "scenes")
    (data / "masks" / "train" / "train0.png").unlink()
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--task", "segmentation", "--data", str(data), "--out", str(out),
              "--attention", "cbam", "--workers", "1"])  # fmt: skip
    assert stopped.value.code == 2
    assert "have no mask, first 'images/train/train0.png'" in capsys.readouterr().err
    assert not out.exists()
