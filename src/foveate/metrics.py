"""What a model is judged by, as a value: everything that ranks, tests or shows a figure reads this.

A task states its metrics; training, records, statistics and the report know no metric by name.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A figure of a trained model on the images held out.

    Attributes:
        name: the key under which histories and records hold it.
        unit: ``"%"`` for a share in [0, 1], which is shown times 100; otherwise what is written
            behind the value, and ``""`` for nothing.
        higher_is_better: whether the better of two models has the larger value.
        bounds: the smallest and the largest value that it can take.
    """

    name: str
    unit: str
    higher_is_better: bool
    bounds: tuple[float, float]

    @property
    def words(self) -> str:
        """The name as a sentence has it: ``balanced accuracy``, ``mean IoU``, ``mask AP``."""
        return " ".join(_WRITTEN.get(word, word) for word in self.name.split("_"))


_WRITTEN = {"iou": "IoU", "ap": "AP", "ap50": "AP50", "ap75": "AP75"}
"""How words of metrics' names are written, where not in small letters."""


ACCURACY = Metric("accuracy", "%", True, (0.0, 1.0))
"""The share of images whose class is found."""

BALANCED_ACCURACY = Metric("balanced_accuracy", "%", True, (0.0, 1.0))
"""The mean over classes of the share of a class's images that is found."""

MEAN_IOU = Metric("mean_iou", "%", True, (0.0, 1.0))
"""Of pixels, summed over all images: a class's intersection over union, averaged over classes."""

PIXEL_ACCURACY = Metric("pixel_accuracy", "%", True, (0.0, 1.0))
"""The share of counted pixels whose class is found."""

MEAN_CLASS_ACCURACY = Metric("mean_class_accuracy", "%", True, (0.0, 1.0))
"""The mean over classes of the share of a class's pixels that is found."""

MEAN_DICE = Metric("mean_dice", "%", True, (0.0, 1.0))
"""As the mean IoU, with twice the intersection over the sum of both areas."""

AP = Metric("ap", "%", True, (0.0, 1.0))
"""COCO's average precision of boxes: the mean over classes and over IoU thresholds .50 to .95."""

AP50 = Metric("ap50", "%", True, (0.0, 1.0))
"""The average precision of boxes at an IoU of .50, averaged over classes."""

AP75 = Metric("ap75", "%", True, (0.0, 1.0))
"""The average precision of boxes at an IoU of .75, averaged over classes."""

MASK_AP = Metric("mask_ap", "%", True, (0.0, 1.0))
"""COCO's average precision of masks."""

MASK_AP50 = Metric("mask_ap50", "%", True, (0.0, 1.0))
"""The average precision of masks at an IoU of .50, averaged over classes."""
