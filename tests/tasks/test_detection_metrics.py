"""COCO's average precision: pycocotools' numbers, and AP without each image, the slow way."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.average_precision import AREAS
from foveate.tasks.detection_metrics import AveragePrecision

CLASSES = 4
SIDE = 150


def scenes(seed: int, images: int = 12) -> tuple[list[dict], list[dict]]:
    """Objects, of which some are crowds, and detections near them and elsewhere, with ties."""
    rng = np.random.default_rng(seed)
    predicted, targets = [], []
    for number in range(images):
        count = int(rng.integers(0, 6)) if number % 4 else 0
        boxes = _boxes(rng, count)
        labels = rng.integers(0, CLASSES - 1, count)  # the last class has no object
        near = np.repeat(boxes, 3, 0) + rng.normal(0, 6, (3 * count, 4))
        found = np.concatenate([near, _boxes(rng, 4)])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guessed = np.concatenate([np.repeat(labels, 3), rng.integers(0, CLASSES, 4)])
        predicted.append(
            {
                "boxes": torch.tensor(found),
                "scores": torch.tensor(rng.integers(1, 20, len(found)) / 20),
                "labels": torch.tensor(guessed),
            }
        )
        targets.append(
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "labels": torch.tensor(labels),
                "iscrowd": torch.tensor(rng.random(count) < 0.15),
                "image_id": torch.tensor(number),
            }
        )
    return predicted, targets


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, SIDE - 40, (count, 2)).round(1)
    return np.concatenate([corner, corner + rng.choice([9, 25, 60, 110], (count, 2))], 1)


def measured(predicted, targets, **options) -> AveragePrecision:
    metric = AveragePrecision(CLASSES, **options)
    metric.update(predicted, targets)
    return metric


def by_pycocotools(predicted, targets, kind: str = "bbox") -> np.ndarray:
    """COCO's twelve figures, published code."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: Any = COCO()
    objects, found = [], []
    for ours, theirs in zip(predicted, targets, strict=True):
        image = int(theirs["image_id"])
        crowd = theirs["iscrowd"].tolist()
        objects += [_entry(each, image, crowd=crowd[n]) for n, each in enumerate(_rows(theirs))]
        found += [_entry(each, image) for each in _rows(ours)]
    for number, each in enumerate(objects, 1):
        each["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": int(t["image_id"]), "height": SIDE, "width": SIDE} for t in targets],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": objects,
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return np.where(run.stats == -1, np.nan, run.stats)


def _rows(given: dict[str, Tensor]) -> list[dict[str, Any]]:
    keys = [key for key in ("boxes", "labels", "scores", "masks") if key in given]
    return [
        dict(zip(keys, row, strict=True)) for row in zip(*(given[k] for k in keys), strict=True)
    ]


def _entry(row: dict[str, Any], image: int, crowd: bool | None = None) -> dict[str, Any]:
    x1, y1, x2, y2 = row["boxes"].tolist()
    entry = {
        "image_id": image,
        "category_id": int(row["labels"]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }
    area = (x2 - x1) * (y2 - y1)
    if "masks" in row:
        from pycocotools import mask

        entry["segmentation"] = mask.encode(np.asfortranarray(row["masks"].numpy() > 0, np.uint8))
        area = float(mask.area(entry["segmentation"]))
        if crowd is None:
            del entry["bbox"]
    if crowd is not None:
        return {**entry, "iscrowd": int(crowd), "area": area}
    return {**entry, "score": float(row["scores"])}


def with_masks(given: list[dict]) -> list[dict]:
    """Ellipses in the boxes."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    found = []
    for image in given:
        x1, y1, x2, y2 = image["boxes"].reshape(-1, 4).T[..., None, None]
        across, down = (x - (x1 + x2) / 2) / (x2 - x1), (y - (y1 + y2) / 2) / (y2 - y1)
        found.append({**image, "masks": (across**2 + down**2 <= 0.25).to(torch.uint8)})
    return found


@pytest.mark.parametrize("seed", range(4))
def test_boxes_have_pycocotools_figures(seed):
    predicted, targets = scenes(seed)
    figures = list(measured(predicted, targets).compute().values())
    np.testing.assert_allclose(figures, by_pycocotools(predicted, targets), rtol=0, atol=1e-12)


def test_masks_have_pycocotools_figures():
    predicted, targets = map(with_masks, scenes(7, images=5))
    figures = measured(predicted, targets, kind="mask").compute()
    assert all(name.startswith("mask_") for name in figures)
    expected = by_pycocotools(predicted, targets, "segm")
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-12)


def test_more_detections_than_count_are_those_of_highest_score():
    predicted, targets = scenes(1, images=3)
    many = {"boxes": predicted[1]["boxes"][:1].repeat(150, 1)}
    many["boxes"] = many["boxes"] + torch.arange(150)[:, None] / 50
    many["scores"], many["labels"] = torch.linspace(0, 1, 150), torch.zeros(150, dtype=torch.int64)
    predicted[1] = many
    figures = list(measured(predicted, targets).compute().values())
    np.testing.assert_allclose(figures, by_pycocotools(predicted, targets), rtol=0, atol=1e-12)


def test_recall_of_any_number_of_detections():
    evidence = measured(*scenes(2)).evidence
    recalls = [np.nanmean(evidence.recall(most=most)) for most in (1, 2, 5, 100)]
    assert 0 < recalls[0] < recalls[1] < recalls[2] <= recalls[3]


def test_a_detection_in_an_image_without_objects_is_false():
    target = {"boxes": torch.tensor([[0.0, 0, 50, 50]]), "labels": torch.tensor([0])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    right = {**target, "scores": torch.tensor([0.5])}
    false = {**target, "scores": torch.tensor([0.9])}
    targets = [{**target, "image_id": torch.tensor(0)}, {**empty, "image_id": torch.tensor(1)}]
    for order in ((0, 1), (1, 0)):
        metric = AveragePrecision(1)
        for image in order:
            metric.update([(right, false)[image]], [targets[image]])
        assert metric.compute()["ap"] == pytest.approx(0.5)
    metric = AveragePrecision(1)
    metric.update([{**empty, "scores": torch.zeros(0)}], targets[1:])
    assert np.isnan(list(metric.compute().values())).all()
    assert np.isnan(list(AveragePrecision(1).evidence.figures().values())).all()


def test_areas_are_those_of_the_original_image():
    target = {
        "boxes": torch.tensor([[0.0, 0, 20, 20]]),
        "labels": torch.tensor([0]),
        "image_id": torch.tensor(0),
        "scale": torch.tensor([4.0, 2.0]),
    }
    metric = AveragePrecision(1)
    metric.update([{**target, "scores": torch.ones(1)}], [target])
    figures = metric.compute()  # 80 x 40 pixels
    assert figures["ap_medium"] == pytest.approx(1)
    assert np.isnan([figures["ap_small"], figures["ap_large"]]).all()


def test_what_is_no_class_is_refused():
    predicted, targets = scenes(0, images=2)
    predicted[1]["labels"][0] = CLASSES
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 3\], got 4"):
        measured(predicted, targets)


@pytest.mark.parametrize("area", AREAS)
def test_without_each_image_it_is_as_if_that_had_not_been_there(area):
    predicted, targets = scenes(3)
    fast = measured(predicted, targets).evidence.left_out(area)
    for number in range(len(targets)):
        kept = [n for n in range(len(targets)) if n != number]
        slow = measured([predicted[n] for n in kept], [targets[n] for n in kept]).evidence
        np.testing.assert_array_equal(fast[number], slow.precision(area))


def test_the_order_in_which_images_come_in_is_no_matter():
    predicted, targets = scenes(5)
    mixed = np.random.default_rng(0).permutation(len(targets)).tolist()
    one = measured(predicted, targets).evidence
    other = measured([predicted[n] for n in mixed], [targets[n] for n in mixed]).evidence
    np.testing.assert_array_equal(one.precision(), other.precision())
    np.testing.assert_array_equal(one.left_out(), other.left_out())


def test_of_each_image_alone_it_is_as_if_the_others_had_not_been_there():
    predicted, targets = scenes(4)
    fast = measured(predicted, targets).evidence.alone()
    for number, pair in enumerate(zip(predicted, targets, strict=True)):
        slow = measured(*([one] for one in pair)).evidence
        np.testing.assert_array_equal(fast[number], slow.precision()[:, 0])
