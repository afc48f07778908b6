"""Areas of images as predictions: metrics, pseudo-values, chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate.metrics import ACCURACY, MEAN_CLASS_ACCURACY, MEAN_DICE, MEAN_IOU, PIXEL_ACCURACY
from foveate.study.crossed import pseudo_values
from foveate.study.health import assess
from foveate.study.pixel_predictions import METRICS, PixelPredictions, always, iou, mean_iou
from foveate.study.provenance import _wrong_arrays
from foveate.study.records import EpochRecord, Records
from foveate.tasks.segmentation_metrics import means_of


def areas(images: int = 12, classes: int = 4, skill: float = 0.7) -> PixelPredictions:
    """Images of which a share of the pixels is found; the last class is in the first image only."""
    rng = np.random.default_rng(0)
    found = np.zeros((images, 3, classes), np.uint32)
    for image in range(images):
        there = classes if image == 0 else classes - 1
        labels = rng.choice(there, 300, p=np.arange(there, 0, -1) / np.arange(1, there + 1).sum())
        wrong = rng.random(300) > skill
        predicted = np.where(wrong, rng.integers(0, there, 300), labels)
        found[image] = [
            np.bincount(each, minlength=classes)
            for each in (labels[labels == predicted], predicted, labels)
        ]
    return PixelPredictions(found, np.arange(images, dtype=np.uint32))


@pytest.mark.parametrize("metric", [MEAN_IOU, PIXEL_ACCURACY, MEAN_CLASS_ACCURACY, MEAN_DICE])
def test_metrics_are_those_of_the_task_and_the_mean_of_pseudo_values(metric):
    found = areas()
    expected = means_of(torch.from_numpy(found.whole))[metric.name]
    scores = found.scores(metric)
    assert scores.mean() == pytest.approx(expected, abs=1e-12)
    assert scores == pytest.approx(pseudo_values(METRICS[metric.name], found.areas))


def test_a_metric_of_images_is_refused():
    with pytest.raises(ValueError, match="accuracy is no function of areas"):
        areas().scores(ACCURACY)


def test_a_class_that_is_nowhere_has_no_iou():
    found = areas(classes=4).whole[:, :3]
    more = np.concatenate([found, np.zeros((3, 1))], axis=1)
    assert np.isnan(iou(more)[3])
    assert mean_iou(more) == mean_iou(found)


def test_the_same_class_everywhere_is_chance():
    found = areas()
    labelled = found.areas[:, 2]
    constant = PixelPredictions(always(labelled, 0), found.images)
    whole = constant.whole
    assert whole[1].tolist() == [whole[2].sum(), 0, 0, 0]
    assert mean_iou(whole) == pytest.approx(whole[2, 0] / whole[2].sum() / 4)
    history = [EpochRecord(e, 1.0 / e, 1.0, 0.2, 1.0) for e in (1, 2, 3, 4)]
    health = assess(history, constant, MEAN_IOU)
    assert health.at_chance
    assert health.chance > mean_iou(whole)
    assert not assess(history, found, MEAN_IOU).at_chance
    risen = [EpochRecord(e, 1.0 / e, 1.0, 0.25 * e, 1.0) for e in (1, 2, 3, 4)]
    assert assess(risen, found, MEAN_IOU).rising
    assert not health.rising


def test_shares_of_an_image():
    found = areas()
    hits, _, labelled = found.areas.sum(2).T
    assert found.found == pytest.approx(hits / labelled)
    nothing = PixelPredictions(np.zeros((1, 3, 2), np.uint32), np.zeros(1, np.uint32))
    assert nothing.found.tolist() == [1.0]


def test_they_are_kept_and_read_again(tmp_path):
    records, found = Records(tmp_path), areas()
    records.trial_folder("slide", 0).mkdir(parents=True)
    records.write_predictions("slide", 0, found)
    again = records.predictions("slide", 0)
    assert isinstance(again, PixelPredictions)
    assert np.array_equal(again.areas, found.areas)
    assert _wrong_arrays(again) is None
    again.areas[0, 0, 0] += 500
    assert _wrong_arrays(again) == "an intersection is larger than an area"
