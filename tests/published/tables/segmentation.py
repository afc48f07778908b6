"""Losses and figures of segmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.tasks.segmentation_losses import pixel_cross_entropy
from foveate.tasks.segmentation_metrics import AreaMetric, means_of, scores_of
from tests.published.golden import Golden, Row


def _losses(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """Mmsegmentation's default divides by all pixels: ours, times the share that counts."""
    logits, labels = golden.inputs["logits"], golden.inputs["labels"]
    weights = torch.tensor(golden.kwargs["class_weight"])
    ours = pixel_cross_entropy(logits, labels)
    share = (labels != 255).float().mean()
    clamped = pixel_cross_entropy(logits, labels.clamp(max=4), weights)
    losses = [ours * share, ours, clamped, pixel_cross_entropy(logits, labels, weights)]
    metric = AreaMetric(logits.shape[1])
    metric.update(logits.argmax(1), labels)
    accuracy = 100 * torch.tensor(metric.compute()["pixel_accuracy"])
    return {"losses": torch.stack(losses), "acc_percent": torch.stack([accuracy, accuracy * share])}


def _figures(metric: AreaMetric, golden: Golden) -> dict[str, Tensor]:
    """The case holds the union where ours holds what it follows from, and -1 for no figure."""
    metric.update(golden.inputs["pred"], golden.inputs["label"])
    total = metric.areas.sum(0)
    hits, predicted, labelled = total
    scores: dict[str, Any] = scores_of(total)
    means = means_of(total)
    return {
        "areas": torch.stack([hits, predicted + labelled - hits, predicted, labelled]),
        "IoU": scores["iou"].nan_to_num(-1),
        "Acc": scores["accuracy"].nan_to_num(-1),
        "Dice": scores["dice"].nan_to_num(-1),
        "means_aAcc_mIoU_mAcc_mDice": torch.tensor(
            [
                means[name]
                for name in ("pixel_accuracy", "mean_iou", "mean_class_accuracy", "mean_dice")
            ],
            dtype=torch.float64,
        ),
    }


ROWS = [
    Row(
        "mmseg_losses",
        lambda **_: nn.Identity(),
        _losses,
        tolerance=1e-6,
        mechanism="pixel_cross_entropy",
    ),
    Row(
        "mmseg_iou_metric",
        lambda num_classes, ignore_index: AreaMetric(num_classes, ignore_index),
        _figures,
        tolerance=1e-7,
    ),
]
