"""Areas: summed over images before they are divided, and classes without a figure left out."""

from __future__ import annotations

import math

import pytest
import torch

from foveate.metrics import MEAN_CLASS_ACCURACY, MEAN_DICE, MEAN_IOU, PIXEL_ACCURACY
from foveate.tasks.segmentation_metrics import AreaMetric, scores_of


def test_images_of_different_sizes_are_summed_before_they_are_divided():
    metric = AreaMetric(3)
    labels = [torch.tensor([[0, 0, 1]]), torch.tensor([[1, 255], [1, 0]])]
    predicted = [torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2], [0, 0]])]
    metric.update(predicted, labels)
    # Class 0: 2 of 3 + 3 - 2; class 1: 2 of 3 + 3 - 2; class 2 only where it is ignored.
    figures = metric.compute()
    known = (MEAN_IOU, PIXEL_ACCURACY, MEAN_CLASS_ACCURACY, MEAN_DICE)
    assert figures.keys() == {each.name for each in known}
    assert figures["mean_iou"] == pytest.approx(0.5)
    assert figures["pixel_accuracy"] == pytest.approx(4 / 6)
    assert figures["mean_class_accuracy"] == pytest.approx(2 / 3)
    assert figures["mean_dice"] == pytest.approx(4 / 6)
    assert metric.areas.shape == (2, 3, 3)


def test_a_class_predicted_and_nowhere_labelled_counts_as_zero():
    metric = AreaMetric(4)
    metric.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    iou = scores_of(metric.areas.sum(0))["iou"]
    assert iou[:3].nan_to_num(-1).tolist() == [0.5, -1, 0]
    assert metric.compute()["mean_iou"] == 0.25


def test_where_no_pixel_counts_there_is_no_figure():
    metric = AreaMetric(2)
    assert metric.areas.shape == (0, 3, 2)
    metric.update(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 255))
    assert all(math.isnan(value) for value in metric.compute().values())


def test_what_is_no_class_is_refused_by_its_value():
    metric = AreaMetric(3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\], or 255.*got 7"):
        metric.update(torch.zeros(1, 1, 2), torch.tensor([[[0, 7]]]))
    with pytest.raises(ValueError, match=r"one size, got \(2, 2\) and \(2, 3\)"):
        metric.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
