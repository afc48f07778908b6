"""How well a class is found for every pixel: IoU, accuracy and Dice of classes, from areas.

    IoU_k = I_k / (P_k + L_k - I_k),   accuracy_k = I_k / L_k,   Dice_k = 2 I_k / (P_k + L_k)

of the pixels that count: ``P_k`` are said to be of class k, ``L_k`` are, ``I_k`` both. Areas are
summed over all images before anything is divided, so that these are no means over images. Where it
is 0 / 0 a class has no figure, and means leave it out: a class that is neither labelled nor
predicted. One that is predicted and nowhere labelled has an IoU of zero, which counts.

Published code: open-mmlab/mmsegmentation v1.2.2 ``IoUMetric`` (Apache-2.0), exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.utilities import dim_zero_cat

from foveate.arguments import positive
from foveate.tasks.segmentation_losses import IGNORED


class AreaMetric(TorchMetric):
    """Areas of each image, and what they come to.

    Args:
        num_classes: K.
        ignored: label of pixels that count nowhere.
    """

    higher_is_better = None  # of several figures; the metrics of the task say it for each
    full_state_update = False
    images: list[Tensor]

    def __init__(self, num_classes: int, ignored: int = IGNORED) -> None:
        super().__init__()
        self.num_classes = positive(num_classes, "num_classes")
        self.ignored = ignored
        self.add_state("images", [], dist_reduce_fx="cat")

    def update(self, predicted: Iterable[Tensor], labels: Iterable[Tensor]) -> None:
        """Count a batch.

        Args:
            predicted: the class of every pixel, (B, H, W) or B of (H, W), which may differ.
            labels: the true ones, likewise.

        Raises:
            ValueError: if an image and its labels differ in size, or a label is none of a class.
        """
        for ours, theirs in zip(predicted, labels, strict=True):
            self.images.append(areas_of(ours, theirs, self.num_classes, self.ignored)[None])

    @property
    def areas(self) -> Tensor:
        """(N, 3, K) of N images in the order that they came in: I, P and L of every class."""
        if not self.images:
            return torch.zeros(0, 3, self.num_classes, dtype=torch.int64, device=self.device)
        return dim_zero_cat(self.images)

    def compute(self) -> dict[str, float]:
        return means_of(self.areas.sum(0))


def areas_of(predicted: Tensor, labels: Tensor, num_classes: int, ignored: int) -> Tensor:
    """(3, K): of one image the intersection, the predicted and the labelled area of every class."""
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predictions and labels of an image must be of one size, got {tuple(predicted.shape)} "
            f"and {tuple(labels.shape)}"
        )
    counted = labels != ignored
    predicted, labels = predicted[counted].long(), labels[counted].long()
    for what, given in (("labels", labels), ("predictions", predicted)):
        wrong = given[(given < 0) | (given >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"{what} must be in [0, {num_classes - 1}], or {ignored} for pixels that do not "
                f"count, got {wrong[0].item()}"
            )
    hits = labels[predicted == labels]
    return torch.stack(
        [torch.bincount(each, minlength=num_classes) for each in (hits, predicted, labels)]
    )


def scores_of(areas: Tensor) -> dict[str, Tensor]:
    """IoU, accuracy and Dice of every class, float64 (..., K); NaN where a class has none.

    Args:
        areas: (..., 3, K).
    """
    hits, predicted, labelled = areas.double().unbind(-2)
    return {
        "iou": hits / (predicted + labelled - hits),
        "accuracy": hits / labelled,
        "dice": 2 * hits / (predicted + labelled),
    }


def means_of(areas: Tensor) -> dict[str, float]:
    """The figures of :mod:`foveate.metrics` by name, from areas (3, K) of all images together."""
    scores = {name: float(values.nanmean()) for name, values in scores_of(areas).items()}
    hits, _, labelled = areas.sum(1).tolist()
    return {
        "mean_iou": scores["iou"],
        "pixel_accuracy": hits / labelled if labelled else float("nan"),
        "mean_class_accuracy": scores["accuracy"],
        "mean_dice": scores["dice"],
    }
