"""Segmentation as a task: what is learnt by, predicted and measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from foveate.metrics import MEAN_DICE, MEAN_IOU, Metric
from foveate.tasks import AreaMetric, Segmentation, dice_loss, pixel_cross_entropy
from foveate.tasks.segmentation import by_windows


class Pointwise(nn.Module):
    """Logits of each pixel from that pixel alone, so that windows change nothing."""

    def __init__(self, outputs: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.outputs = outputs
        self.loss_weights = {"out": 1.0, "aux": 0.25}

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        y = self.conv(x)
        named = {name: (1 + i) * y for i, name in enumerate(self.outputs)}
        return named if self.training and named else y


def batch(generator: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(generator)
    labels = torch.randint(4, (2, 6, 7))
    labels[:, 0] = 255
    return torch.randn(2, 3, 6, 7), labels


def test_outputs_count_as_the_model_says():
    x, labels = batch()
    model = Pointwise(("out", "aux", "extra"))
    found = Segmentation(4).losses(model, (x, labels))
    each = [pixel_cross_entropy((1 + i) * model.conv(x), labels) for i in range(3)]
    assert torch.allclose(found["loss"], each[0] + 0.25 * each[1] + 0.4 * each[2])
    assert torch.allclose(found["aux"], each[1])
    assert set(Segmentation(4).losses(Pointwise(("out",)), (x, labels))) == {"loss"}


def test_dice_and_class_weights_are_in_the_loss():
    x, labels = batch()
    model = Pointwise().train()
    y = model(x)
    weights = [1.0, 2.0, 0.5, 1.0]
    found = Segmentation(4, dice=0.5, class_weights=weights).losses(model, (x, labels))["loss"]
    expected = pixel_cross_entropy(y, labels, torch.tensor(weights)) + 0.5 * dice_loss(y, labels)
    assert torch.allclose(found, expected)


def test_images_of_different_sizes_are_predicted_and_measured_one_by_one():
    model = Pointwise().eval()
    task = Segmentation(4)
    sizes = [(5, 9), (8, 4), (1, 1)]
    images = [torch.randn(3, *size) for size in sizes]
    labels = [torch.randint(4, size) for size in sizes]
    logits = task.predict(model, images)
    assert [tuple(y.shape[1:]) for y in logits] == sizes
    evaluator = task.evaluator()
    evaluator.update(logits, labels)
    found = evaluator.compute()
    pixels = [torch.cat([y.flatten(1).T for y in logits]), torch.cat([y.flatten() for y in labels])]
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(*pixels).item(), rel=1e-5)
    areas = AreaMetric(4)
    areas.update([y.argmax(0) for y in logits], labels)
    assert found["mean_iou"] == areas.compute()["mean_iou"]
    assert {metric.name for metric in task.metrics} < found.keys()
    assert evaluator.areas.shape == (3, 3, 4)


def test_a_batch_that_is_ignored_whole_is_nothing():
    evaluator = Segmentation(4).evaluator()
    evaluator.update(torch.randn(1, 4, 3, 3), torch.full((1, 3, 3), 255))
    found = evaluator.compute()
    assert found["loss"] == 0
    assert math.isnan(found["mean_iou"])


@pytest.mark.parametrize("size", [(6, 7), (3, 20), (13, 12), (4, 5)])
def test_windows_cover_every_pixel_and_average(size):
    model = Pointwise().eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.allclose(by_windows(model, x, (4, 5)), model(x), atol=1e-6)


def test_windows_overlap_by_a_third():
    seen = []

    class Count(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return x.mean((2, 3), keepdim=True).expand_as(x)

    x = torch.arange(12.0).view(1, 1, 1, 12)
    y = by_windows(Count(), x, (1, 6))
    assert seen == [(1, 6)] * 3  # from 0, 4 and 6
    assert y[0, 0, 0, 0] == pytest.approx(2.5)
    assert y[0, 0, 0, 6] == pytest.approx((6.5 + 8.5) / 2)


def test_arguments_are_checked():
    x, labels = batch()
    with pytest.raises(ValueError, match="one for each of 4 classes"):
        Segmentation(4, class_weights=[1.0])
    with pytest.raises(ValueError, match="dice must be at least 0"):
        Segmentation(4, dice=-1)
    with pytest.raises(ValueError, match="window must be at least 1"):
        Segmentation(4, window=0)
    with pytest.raises(ValueError, match="metric"):
        Segmentation(4, metric=Metric("accuracy", "%", True, (0, 1)))
    with pytest.raises(ValueError, match="images of one size a batch, got 6x7, 6x7"):
        Segmentation(4).losses(Pointwise(), (list(x), labels))
    assert Segmentation(4, metric=MEAN_DICE).metrics[:2] == (MEAN_DICE, MEAN_IOU)
