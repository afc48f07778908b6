"""Detection: boxes, and perhaps masks, of objects of K classes; judged by COCO's average precision.

The model has the interface of torchvision's detectors, with labels 0..K-1: in training it takes a
list of images and a list of target dicts and gives a dict of losses, whose sum is minimised; in
evaluation it takes the images and gives a dict of ``boxes``, ``labels``, ``scores`` (and ``masks``)
for each. Crowd regions are not learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from foveate.arguments import one_of
from foveate.data.annotations.record import Category
from foveate.metrics import AP, AP50, AP75, MASK_AP, MASK_AP50, Metric
from foveate.tasks.detection_metrics import AveragePrecision

Targets = list[dict[str, Tensor]]


class Detection:
    """Images are a list of (3, H, W), targets a list of dicts, as
    :class:`foveate.data.detection_batches.DetectionBatches` gives them.

    Args:
        categories: the classes, in the order of labels, with the ids that annotation files call
            them by.
        masks: whether the model is to find masks as well.
        metric: the one that ranks; all are measured.

    Raises:
        ValueError: if the metric is none of the task's.
    """

    name = "detection"

    def __init__(
        self, categories: Sequence[Category], *, masks: bool = False, metric: Metric = AP
    ) -> None:
        self.categories = tuple(categories)
        self.masks = masks
        known = [AP, AP50, AP75, *([MASK_AP, MASK_AP50] if masks else [])]
        one_of(metric.name, [each.name for each in known], "metric")
        self.metrics: tuple[Metric, ...] = (metric, *(each for each in known if each != metric))

    def losses(self, model: nn.Module, batch: tuple[list[Tensor], Targets]) -> dict[str, Tensor]:
        images, targets = batch
        parts = model(images, [_learnt(target, self.masks) for target in targets])
        return {"loss": sum(parts.values()), **parts}  # pyrefly: ignore

    def predict(self, model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, labels, scores and perhaps masks of each image, in its pixels."""
        return model(images)

    def evaluator(self) -> MetricCollection:
        """``box`` and perhaps ``mask``, each an :class:`AveragePrecision`."""
        kinds: list[Any] = ["box", "mask"] if self.masks else ["box"]
        return MetricCollection(
            {kind: AveragePrecision(len(self.categories), kind) for kind in kinds},
            compute_groups=False,
        )

    def coco_results(
        self, predicted: Sequence[dict[str, Tensor]], targets: Targets, image_ids: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Detections as COCO's results files hold them, labels turned back into category ids.

        Args:
            predicted: what :meth:`predict` gave.
            targets: of the same images; their ``scale`` brings boxes to the original image.
            image_ids: by which the results call the images.
        """
        return [
            {
                "image_id": image_id,
                "category_id": self.categories[label].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for ours, theirs, image_id in zip(predicted, targets, image_ids, strict=True)
            for (x1, y1, x2, y2), label, score in zip(
                (ours["boxes"] * theirs["scale"].repeat(2)).tolist(),
                ours["labels"].tolist(),
                ours["scores"].tolist(),
                strict=True,
            )
        ]


def _learnt(target: dict[str, Tensor], masks: bool) -> dict[str, Tensor]:
    """What is learnt from an image: objects that are no crowd regions."""
    single = ~target["iscrowd"]
    if masks and "masks" not in target:
        raise ValueError(
            "the task learns masks, and the targets have none: prepare the images with "
            "masks='given', or 'ellipse' or 'rectangle' to draw them from the boxes"
        )
    keys = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    return {key: target[key][single] for key in keys}
