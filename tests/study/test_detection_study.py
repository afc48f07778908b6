"""``foveate compare --task detection``, end to end on small scenes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import foveate
from foveate.average_precision import AREAS
from foveate.cli import main
from foveate.metrics import AP, AP50, MASK_AP
from foveate.study.box_predictions import BoxPredictions
from foveate.study.entry import PlanError
from foveate.study.health import assess
from foveate.study.kinds import KINDS
from foveate.study.plan import Plan, complete, load_plan, read_plan
from foveate.study.probe import look_at_host, probe
from foveate.study.records import TRUTH, DamagedRunError, EpochRecord, Records
from foveate.study.results import read_results
from foveate.study.statistics import judge
from foveate.study.tasks.detection import guessed, options_of
from foveate.study.trial import build, costs, run_trial, tune
from tests.data import annotated
from tests.data.folders import truncate

OWN = Path(__file__).with_name("own_detector.py")
SMALL = {
    "host_kwargs": {"dims": [16, 24, 32, 32], "depths": [1, 1, 1, 1]},
    "head_kwargs": {"dim": 16, "anchor_scale": 2.0},
}


def plan_of(data: Path, **settings: Any) -> Plan:
    values = {"task": "detection", "data": str(data), "attention": ["cbam"], "controls": ["none"],
              "epochs": 2, "batch_size": 4, "image_size": [40, 60], "augment": "none",
              "cache": "none", "workers": 1, "threads": 1, "device": "cpu", "seeds": 1}  # fmt: skip
    return complete(read_plan({**values, **SMALL, **settings}))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return annotated.make_coco(tmp_path_factory.mktemp("scenes") / "set", train=9, val=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished study in a detector of the user's own, which finds boxes from the start."""
    folder = tmp_path_factory.mktemp("detection")
    data = annotated.make_coco(folder / "set", train=9, val=5)
    truncate(data / "train2017" / "train8.png")
    command = [
        "compare", "--task", "detection", "--data", str(data), "--attention", "cbam",
        "--controls", "none", "--seeds", "2", "--epochs", "3", "--batch-size", "4",
        "--image-size", "40", "60", "--lr", "0.02", "--workers", "1", "--threads", "1",
        "--cache", "none", "--metric", "ap50", "--host", f"{OWN}:build", "--match", "parameters",
        "--start", "plain", "--out", str(folder / "run"),
    ]  # fmt: skip
    assert main(command) == 0
    return folder / "run"


def results_of(run: Path):
    return read_results(run, load_plan(run / "plan.yaml"))


def test_scores_are_those_of_what_became_of_detections(run):
    results = results_of(run)
    assert results.metric == AP50
    for row in results.rows:
        for seed, score in row.scores.items():
            found = row.predictions[seed]
            assert isinstance(found, BoxPredictions)
            assert score == pytest.approx(np.nanmean(found.boxes.precision()[:, 0]))
            assert found.scores(AP50).mean() == pytest.approx(score)
        assert row.confusion is None
        assert row.accuracy is None
        assert max(row.scores.values()) > 0
    assert results.majority.what == "the boxes of the next image"
    verdict = judge(results.scores, results.controls, results.metric)
    assert verdict.comparisons[0].images == 5
    lines = list(csv.DictReader((run / "summary.csv").open()))
    assert float(lines[0]["ap50"]) == pytest.approx(results.rows[0].estimate.mean)


def test_the_report_shows_classes_sizes_and_boxes(run):
    page = (run / "report.html").read_text()
    for text in (
        "AP by class",
        "AP by size",
        "the boxes of the next image",
        "<small>labelled</small>",
        "skipped 1 unreadable file: train2017/train8.png",
    ):
        assert text in page
    records = Records(run)
    truth = records.overlays(TRUTH)
    shown = records.overlays("cbam")
    assert truth.keys() == shown.keys() == records.pictures().keys() != set()
    for image, boxes in shown.items():
        assert boxes.shape == truth[image].shape == (2, 7)
    assert page.count("<rect") >= 6 * len(truth)


def test_what_is_there_fits_the_plan_and_the_images(run, tmp_path, capsys):
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    before = (run / "plan.yaml").read_text()
    (run / "plan.yaml").write_text(yaml.safe_dump({**plan, "augment": "none"}))
    with pytest.raises(SystemExit):
        main(["compare", "--resume", str(run)])
    (run / "plan.yaml").write_text(before)
    assert "augment was 'auto' and is 'none'" in capsys.readouterr().err
    records = Records(run)
    found = records.predictions("cbam", 0)
    assert isinstance(found, BoxPredictions)
    moved, kept = np.array([9, *[0] * 10]), np.array([1, 1, 1, *[0] * 8])
    changes: list[tuple[dict[str, np.ndarray], str]] = [
        ({"box_objects": found.box_objects[1:]}, "its objects are not those of the held-out"),
        ({"classes": np.array(3)}, "3 classes, of 2"),
        ({"without": found.without[:, :2]}, "where three or five of 5 are expected"),
        ({"box_detections": found.box_detections[:, :4]}, "whole numbers"),
        ({"box_detections": found.box_detections + moved}, "image 13 is named, of 5"),
        ({"box_scores": found.box_scores[1:]}, "scores, of"),
        ({"box_detections": found.box_detections * kept}, "beside it gives"),
    ]  # fmt: skip
    for change, said in changes:
        records.write_predictions("cbam", 0, found._replace(**change))
        try:
            with pytest.raises(DamagedRunError, match=said):
                results_of(run)
        finally:
            records.write_predictions("cbam", 0, found)
    assert results_of(run)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "detektion"}, "detection"),
        ({}, "needs data with objects, and data is characters"),
        ({"data": "x", "metric": "mean_iou"}, "is of another task"),
        ({"data": "x", "mixup": 0.2}, "mixup is for task classification"),
        ({"data": "x", "dice": 1.0}, "dice is for task segmentation"),
        ({"task": "classification", "masks": "given"}, "masks is for task detection"),
        ({"task": "classification", "head": "retinanet"}, "head is for task segmentation or det"),
        (
            {"data": "x", "masks": "ellipse"},
            "masks is ellipse: mask_rcnn and cascade_mask_rcnn find",
        ),
        ({"data": "x", "metric": "mask_ap"}, "metric mask_ap is of masks: mask_rcnn and casc"),
        ({"data": "x", "masks": "drawn", "head": "mask_rcnn"}, "masks must be given or ellipse"),
        ({"data": "x", "match": "latency"}, "match cannot be latency in detection"),
        ({"data": "x", "host": "a.py:build", "metric": "mask_ap"}, "mask_ap needs masks"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(PlanError, match=said):
        read_plan({"task": "detection", **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"head": "upernet"}, "unknown head 'upernet'"),
        ({"augment": "affine"}, "unknown augment 'affine'"),
        ({"augment_kwargs": {"color_jitter": 1}}, "detection has no option 'color_jitter'"),
        ({"augment_kwargs": {"scale": [2, 1]}}, "expected scale="),
        ({"augment_kwargs": {"scale": [1, float("inf")]}}, "expected scale="),
        ({"head_kwargs": {"depth": 3}}, "depth"),
    ],
)
def test_options_that_there_are_not_are_refused_before_images_are_read(settings, said):
    with pytest.raises(ValueError, match=said):
        probe(plan_of(Path("x"), **settings), lambda label: None)


def test_what_augmentation_does_is_stated():
    assert options_of("auto", True, {}) == ((0.7, 1.4), 0.5)
    assert options_of("auto", False, {"hflip": 0.1}) == ((0.7, 1.4), 0.1)
    assert options_of("none", True, {}) == ((1.0, 1.0), 0.0)


def test_defaults_follow_the_task():
    found = read_plan({"task": "detection", "data": "x"})
    assert (found.metric, found.head, complete(found).image_size) == (AP, "retinanet", (192, 192))
    assert complete(found).masks is None
    assert plan_of(Path("x"), head="mask_rcnn").masks == "given"
    assert read_plan({"task": "segmentation", "data": "x"}).head == "semantic_fpn"


def prepared(root: Path, plan: Plan):
    return KINDS["detection"].prepare(root / "data", plan, None)


def finished(root: Path, plan: Plan, tell=lambda event: None) -> BoxPredictions:
    run_trial(root, plan, plan.entries[0], 0, tell)
    found = Records(root).predictions(plan.entries[0].key, 0)
    assert isinstance(found, BoxPredictions)
    return found


def test_a_stopped_trial_goes_on_to_the_same_numbers(data, tmp_path):
    plan = plan_of(data, lr=0.01)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for root in (whole, stopped):
        prepared(root, plan)

    def stop(event):
        if isinstance(event, EpochRecord) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017  Lightning exits on an interrupt
        finished(stopped, plan, stop)
    assert list(stopped.rglob("last.ckpt"))
    first, second = finished(whole, plan), finished(stopped, plan)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    records = [Records(root).trial("cbam", 0) for root in (whole, stopped)]
    assert records[0].score == records[1].score
    assert records[0].loss is None


def test_folds_hold_every_image_out_once_and_rates_are_chosen_on_a_part(data, tmp_path):
    plan = plan_of(data, folds=2, epochs=1, tune="lr", lr_grid=[0.001, 0.01])
    images = prepared(tmp_path, plan)
    found = finished(tmp_path, plan)
    assert found.images.tolist() == list(range(13))
    record = Records(tmp_path).trial("cbam", 0)
    assert record.score == pytest.approx(found.scores(AP).mean())
    assert np.bincount(found.box_objects[:, 0]).tolist() == [2] * 13
    slow = BoxPredictions.of(
        found.images,
        found.boxes,
        None,
        guessed([*images.train.annotated, *images.test.annotated], 2),
    )
    np.testing.assert_allclose(slow.without, found.without)
    tuned = tune(tmp_path, replace(plan, folds=None), plan.entries[0], lambda event: None)
    assert (tuned.images, tuned.selection) == (7, 2)


def test_masks_are_learnt_and_measured(data, tmp_path):
    pytest.importorskip("pycocotools")
    options = {"dim": 16, "fc_dim": 16, "anchor_scale": 2.0}
    plan = plan_of(data, head="mask_rcnn", masks="ellipse", metric="mask_ap", head_kwargs=options)
    prepared(tmp_path, plan)
    found = finished(tmp_path, replace(plan, epochs=1))
    assert found.without.shape == (4, 5)
    assert len(found.box_scores) == len(found.mask_scores)
    assert found.masks is not None
    assert found.scores(MASK_AP).mean() == Records(tmp_path).trial("cbam", 0).score


def test_costs_are_those_of_every_layer_whatever_is_found():
    plan = plan_of(Path("x"))
    model = build(plan, plan.entries[1], 3, 3)
    counted = costs(plan, model, 3).multiply_adds
    assert counted == costs(replace(plan, image_size=(33, 64)), model, 3).multiply_adds
    assert counted < costs(replace(plan, image_size=(65, 64)), model, 3).multiply_adds


def test_a_model_that_finds_nothing_is_at_chance():
    classes = 2
    scenes = [annotated_image(scene) for scene in annotated.scenes(5, 0)]
    guess = guessed(scenes, classes)
    empty = replace(guess, scores=guess.scores[:0], detections=guess.detections[:0])
    epochs = [EpochRecord(1, 2.0, None, 0.0, 1.0), EpochRecord(2, 1.0, None, 0.0, 1.0)]
    images = np.arange(5)
    nothing = assess(epochs, BoxPredictions.of(images, empty, None, guess), AP50)
    assert nothing.at_chance
    assert 0 < nothing.chance < 1
    assert assess(epochs, BoxPredictions.of(images, guess, None, guess), AP50).at_chance
    right = guess.detections.copy()
    right[:, 3 : 3 + len(AREAS)], right[:, 3 + len(AREAS) :] = 1023, 0
    perfect = BoxPredictions.of(images, replace(guess, detections=right), None, guess)
    assert perfect.scores(AP50).mean() == 1
    assert not assess(epochs, perfect, AP50).at_chance
    assert perfect.found == pytest.approx(np.ones(5))
    with pytest.raises(ValueError, match="mask_ap is no average precision"):
        perfect.scores(MASK_AP)


def annotated_image(scene: annotated.Scene):
    from foveate.data.annotations.record import AnnotatedImage, Objects

    boxes = np.array([box for _, box in scene.objects], float)
    labels = np.array([label for label, _ in scene.objects])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    objects = Objects(boxes, labels, np.zeros(len(labels), bool), area)
    return AnnotatedImage(scene.name, annotated.SIZE, objects, "train")


def test_mechanisms_stand_in_a_detector_on_a_model_of_timms():
    plan = plan_of(Path("x"), host="timm/resnet10t", at="stage", host_kwargs={}, image_size=64)
    found = {}
    for entry in plan.entries:
        model = build(plan, entry, 3, 3).eval()
        with torch.no_grad():
            assert {"boxes", "labels", "scores"} <= model([torch.zeros(3, 50, 70)])[0].keys()
        found[entry.name] = sum(p.numel() for p in model.parameters())
    assert found["none"] < found["cbam"]


def test_a_detector_of_ones_own_that_gives_something_else_is_refused():
    from foveate.data.moments import Moments

    plan = plan_of(Path("x"), host=f"{OWN}:build_boxes", host_kwargs={}, head_kwargs={})
    with pytest.raises(
        ValueError, match="a dict of boxes for an image, and should a dict of boxes, l"
    ):
        look_at_host(plan, 2, 3, Moments((0.5,) * 3, (0.5,) * 3), lambda label: None)


def test_what_the_data_lack_is_one_line(tmp_path, capsys):
    data = annotated.make_coco(tmp_path / "set", lambda document: document["annotations"].clear())
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--task", "detection", "--data", str(data), "--attention", "cbam",
              "--workers", "1", "--cache", "none", "--out", str(tmp_path / "run")])  # fmt: skip
    assert stopped.value.code == 2
    assert "has no annotation: it lists 4 images only" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_file_of_a_trial_finds_what_the_study_measured(run, tmp_path):
    """COCO's own precision of what ``foveate predict`` writes is the score of the trial."""
    data = run.parent / "set"
    folder = run / "trials" / "cbam-seed0"
    foveate.predict(folder, data / "val2017", tmp_path, score_threshold=0, host=f"{OWN}:build")
    truth = COCO(str(data / "annotations" / "instances_val2017.json"))
    id_of = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    listed = json.loads((tmp_path / "images.json").read_text())["images"]
    ids = {image["id"]: id_of[image["file_name"]] for image in listed}
    found = json.loads((tmp_path / "detections.json").read_text())
    assert len(found) == 10
    results = truth.loadRes([{**each, "image_id": ids[each["image_id"]]} for each in found])
    evaluation = COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    trial = Records(run).trial("cbam", 0)
    assert trial is not None
    assert trial.score == pytest.approx(evaluation.stats[1])
    info = foveate.load(folder, host=f"{OWN}:build").info
    assert [category.id for category in info.categories or ()] == [3, 7]
    assert info.metrics["ap50"] == pytest.approx(trial.score)
