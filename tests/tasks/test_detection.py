"""The task: losses summed, crowds not learnt from, labels turned back into ids; and a training."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from foveate.data.annotations.record import Category
from foveate.data.detection import prepare_detection
from foveate.data.detection_batches import held_out_detection_batches, train_detection_batches
from foveate.metrics import ACCURACY, AP, AP50, MASK_AP
from foveate.models import create_detector
from foveate.tasks.detection import Detection
from foveate.training import Recipe, train
from tests.data import annotated

CATEGORIES = (Category(3, "red"), Category(7, "blue"))


class Detector(nn.Module):
    """Finds the color by one weight a class; boxes are where the classes are drawn on average."""

    def __init__(self, masks: bool = False) -> None:
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor([[5.0, 5, 20, 16], [33, 15, 50, 26]]))
        self.masks = masks
        self.seen: list[dict] = []

    def forward(self, images, targets=None):
        if self.training:
            self.seen += targets
            errors = [
                (self.boxes[t["labels"]] - t["boxes"]).abs().mean() / 40
                if len(t["labels"]) else self.boxes.sum() * 0
                for t in targets
            ]  # fmt: skip
            return {"bbox": torch.stack(errors).mean(), "extra": self.boxes.sum() * 0 + 1}
        found = {"boxes": self.boxes, "labels": torch.arange(2), "scores": torch.tensor([0.9, 0.8])}
        if self.masks:
            found["masks"] = torch.ones(2, 1, *images[0].shape[1:])
        return [found for _ in images]


def target(**values):
    empty = {"boxes": torch.zeros(1, 4), "labels": torch.tensor([1]), "area": torch.ones(1)}
    return {**empty, "iscrowd": torch.tensor([False]), "image_id": torch.tensor(0), **values}


def test_the_loss_is_the_sum_of_the_model_s_own():
    losses = Detection(CATEGORIES).losses(Detector(), ([torch.zeros(3, 8, 8)], [target()]))
    assert set(losses) == {"loss", "bbox", "extra"}
    assert losses["loss"] == losses["bbox"] + losses["extra"]


def test_crowds_are_not_learnt_from():
    crowd = target(
        boxes=torch.rand(3, 4),
        labels=torch.tensor([0, 1, 0]),
        iscrowd=torch.tensor([False, True, False]),
        masks=torch.arange(3).view(3, 1, 1),
    )
    model = Detector()
    Detection(CATEGORIES, masks=True).losses(model, ([torch.zeros(3, 8, 8)], [crowd]))
    (seen,) = model.seen
    assert set(seen) == {"boxes", "labels", "masks"}
    assert seen["labels"].tolist() == [0, 0]
    assert seen["masks"].flatten().tolist() == [0, 2]


def test_masks_that_are_not_there_are_missed():
    with pytest.raises(ValueError, match="prepare the images with masks='given'"):
        Detection(CATEGORIES, masks=True).losses(Detector(), ([torch.zeros(3, 8, 8)], [target()]))


def test_without_pycocotools_masks_are_refused_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert Detection(CATEGORIES).evaluator()
    with pytest.raises(ValueError, match=r"pip install 'foveate\[detection\]'"):
        Detection(CATEGORIES, masks=True).evaluator()


def test_metrics_are_named_and_ranked():
    assert Detection(CATEGORIES).metrics[0] == AP
    task = Detection(CATEGORIES, masks=True, metric=AP50)
    assert task.metrics[0] == AP50
    assert MASK_AP in task.metrics
    with pytest.raises(ValueError, match="unknown metric 'mask_ap'"):
        Detection(CATEGORIES, metric=MASK_AP)
    with pytest.raises(ValueError, match="unknown metric 'accuracy'"):
        Detection(CATEGORIES, metric=ACCURACY)


def test_results_have_category_ids_and_boxes_of_the_original_image():
    predicted = {
        "boxes": torch.tensor([[1.0, 2, 4, 8]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
    }
    (result,) = Detection(CATEGORIES).coco_results(
        [predicted], [target(scale=torch.tensor([2.0, 3.0]))], ["a.jpg"]
    )
    expected = {"image_id": "a.jpg", "category_id": 7, "bbox": [2, 6, 6, 18], "score": 0.5}
    assert result == expected


@pytest.mark.parametrize("masks", ["none", "ellipse"])
def test_a_training_from_files_to_figures(masks, tmp_path):
    if masks != "none":
        pytest.importorskip("pycocotools")
    root = annotated.make_coco(tmp_path / "set")
    images = prepare_detection(tmp_path / "data", str(root), (40, 60), masks=masks, cache="none")
    task = Detection(images.categories, masks=masks != "none")
    result = train(
        Detector(masks != "none"),
        task,
        train_detection_batches(images, (40, 60), 2, 0, scales=(1.0, 1.0)),
        held_out_detection_batches(images, (40, 60), 2),
        Recipe(epochs=2, lr=1e-3, warmup_epochs=0),
        tmp_path,
    )
    assert result.images == 8
    assert result.history[0].values["train_extra"] == 1
    assert {metric.name for metric in task.metrics} <= result.values.keys()
    assert 0 <= result.values["ap50"] <= 1


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn", "cascade_mask_rcnn"])
def test_the_detectors_learn_from_files_end_to_end(name, tmp_path):
    masks = "none" if name == "retinanet" else "ellipse"
    if masks != "none":
        pytest.importorskip("pycocotools")

    def half(document):  # one image without an object
        document["annotations"] = document["annotations"][2:]

    root = annotated.make_coco(tmp_path / "set", half)
    images = prepare_detection(tmp_path / "data", str(root), (64, 96), masks=masks, cache="none")
    options: dict = {"dim": 8, "anchor_scale": 2.0, "detections": 5}
    if name != "retinanet":
        options |= {"box_head": "shared2fc", "fc_dim": 16}
    model = create_detector(name, "test_efficientnet", len(images.categories), head_options=options)
    task = Detection(images.categories, masks=masks != "none")
    train_images = train_detection_batches(images, (64, 96), 2, 0)
    held_out = held_out_detection_batches(images, (64, 96), 2)
    result = train(model, task, train_images, held_out, Recipe(epochs=1, lr=1e-4), tmp_path)
    assert result.history[0].values["train_loss"] > 0
    assert {metric.name for metric in task.metrics} <= result.values.keys()
    (found, _) = task.predict(model.eval(), next(iter(held_out))[0])
    assert found.keys() >= {"boxes", "labels", "scores"}
