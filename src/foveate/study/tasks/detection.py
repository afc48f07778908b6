"""Trials of detection: a detector's head on the host, images fitted into the study's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from foveate.arguments import nearest, one_of
from foveate.average_precision import Evidence
from foveate.data.annotations.record import AnnotatedImage
from foveate.data.detection import DetectionSet
from foveate.data.detection_batches import (
    SCALES,
    held_out_detection_batches,
    train_detection_batches,
)
from foveate.data.images import AnnotatedImages, Images, ImageSet
from foveate.data.moments import Moments
from foveate.models import list_detectors
from foveate.saved.info import Architecture, ImageInput
from foveate.study.box_predictions import BoxPredictions
from foveate.study.parts import Part
from foveate.study.plan import Plan
from foveate.study.tasks.pictures import reduced
from foveate.tasks import AveragePrecision, Detection

_BATCH = 8
_PICTURE = 240
"""Longer side of the pictures in the report."""

_SMALL_RCNN = {"dim": 64, "fc_dim": 256, "anchor_scale": 4.0}
_SMALL = {
    "retinanet": {"dim": 64, "num_convs": 1, "anchor_scale": 2.0},
    "faster_rcnn": _SMALL_RCNN,
    "mask_rcnn": _SMALL_RCNN,
    "cascade_mask_rcnn": _SMALL_RCNN,
}
"""Options of heads in proportion to a small host and small images, where the plan says nothing."""

_AUGMENT = ("auto", "photo", "none")


class Options(NamedTuple):
    """What augmentation does.

    Attributes:
        scale: range of the random factor on an image's size.
        hflip: the share of images that is mirrored.
    """

    scale: tuple[float, float]
    hflip: float


def options_of(kind: str, mirror: bool, given: Mapping[str, Any]) -> Options:
    """What is done for a kind of augmentation, or as given.

    Args:
        kind: ``"auto"``, ``"photo"`` or ``"none"``.
        mirror: whether the images say that they may be mirrored.
        given: some of :class:`Options` by name.

    Raises:
        ValueError: if one is unknown, with the nearest, or out of its range.
    """
    for name in given:
        if name not in Options._fields:
            raise ValueError(
                f"augment_kwargs: detection has no option {name!r}{nearest(name, Options._fields)}"
            )
    options = Options((1.0, 1.0), 0.0) if kind == "none" else Options(SCALES, 0.5 * mirror)
    options = options._replace(**given)
    try:
        low, high = map(float, options.scale)
        sound = 0 < low <= high < float("inf") and 0 <= float(options.hflip) <= 1
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            "augment_kwargs: expected scale=[LEAST,GREATEST] above 0 and hflip in [0, 1], got "
            f"{options._asdict()}"
        )
    return Options((low, high), float(options.hflip))


class DetectionStudy:
    """See :class:`foveate.study.tasks.base.StudyTask`."""

    def check(self, plan: Plan) -> None:
        one_of(plan.augment, _AUGMENT, "augment")
        one_of(plan.head, list_detectors(), "head")
        options_of(plan.augment, True, plan.augment_kwargs)

    def architecture(self, plan: Plan, name: str, options: Mapping[str, Any]) -> Architecture:
        head = {**_SMALL.get(plan.head, {}), **plan.head_kwargs}
        return Architecture("detector", name, options, plan.head, head, plain=True)

    def input(self, plan: Plan, images: ImageSet, normalize: Moments) -> ImageInput:
        return ImageInput(
            images.channels,
            plan.image_size or (0, 0),
            "inside",
            normalize.mean,
            normalize.std,
            side=images.side,
            ranges=images.ranges,
        )

    def wrong_output(self, plan: Plan, classes: int, given: Any) -> str | None:
        wanted = {"boxes", "labels", "scores", *(("masks",) if plan.masks else ())}
        found = given[0] if isinstance(given, list) and given else given
        if isinstance(found, Mapping) and wanted <= found.keys():
            return None
        said = type(found).__name__
        if isinstance(found, Mapping):
            said = f"a dict of {', '.join(found)}"
        return f"gives {said} for an image, and should a dict of {', '.join(sorted(wanted))}"

    def counted(self, model: nn.Module) -> Callable[[Tensor], Any]:
        dense = getattr(model, "dense", None)
        if dense is None:
            return model
        step = max(model.multiple, *model.strides)

        def padded(x: Tensor) -> Any:
            return dense(F.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step)))

        return padded

    def example(self, plan: Plan, images: ImageSet, count: int, normalize: Moments) -> list[Tensor]:
        rows = [number % len(images.test) for number in range(count)]
        batches = self.measuring(plan, images, Part([images.test], rows), normalize, 0)
        return [image for batch, _ in batches for image in batch]

    def training(self, plan: Plan, images: ImageSet) -> Detection:
        found = cast("DetectionSet", images)
        return Detection(found.categories, masks=found.masks != "none", metric=plan.metric)

    def learning(
        self, plan: Plan, images: ImageSet, seed: int, normalize: Moments, processes: int
    ) -> Any:
        options = options_of(plan.augment, images.augmentation.mirror, plan.augment_kwargs)
        return train_detection_batches(
            cast("DetectionSet", images),
            plan.image_size or (0, 0),
            plan.batch_size,
            seed,
            scales=options.scale,
            hflip=options.hflip,
            normalize=normalize,
            processes=processes,
        )

    def measuring(
        self, plan: Plan, images: ImageSet, split: Images, normalize: Moments, processes: int
    ) -> Any:
        return held_out_detection_batches(
            cast("DetectionSet", images),
            plan.image_size or (0, 0),
            _BATCH,
            split=cast("AnnotatedImages | Part", split),
            normalize=normalize,
            processes=processes,
        )

    def predictions(self, evaluator: Any, split: Images, images: np.ndarray) -> BoxPredictions:
        boxes = evaluator["box"].evidence
        masks = evaluator["mask"].evidence if "mask" in evaluator else None
        annotated = cast("AnnotatedImages | Part", split).annotated
        return BoxPredictions.of(images, boxes, masks, guessed(annotated, boxes.num_classes))

    def pictures(
        self, plan: Plan, images: ImageSet, chosen: list[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        split = cast("AnnotatedImages | Part", images.test)
        pixels = {image: self._picture(images, image) for image in chosen}
        labelled = {}
        for image, shown in pixels.items():
            annotated = split.annotated[image]
            y, x = (side / of for side, of in zip(shown.shape[:2], annotated.size, strict=True))
            single = ~annotated.objects.crowd
            boxes, labels = annotated.objects.boxes[single], annotated.objects.labels[single]
            known = np.ones((len(labels), 2))
            labelled[image] = np.concatenate([boxes * (x, y, x, y), labels[:, None], known], 1)
        return pixels, labelled

    def overlays(
        self, plan: Plan, model: nn.Module, images: ImageSet, chosen: list[int], normalize: Moments
    ) -> dict[int, np.ndarray]:
        task = self.training(plan, images)
        if not chosen:
            return {}
        part = Part([images.test], chosen)
        _, labelled = self.pictures(plan, images, chosen)
        found = {}
        for batch, targets in self.measuring(plan, images, part, normalize, 0):
            with torch.inference_mode():
                given = task.predict(model, move_data_to_device(batch, plan.device))
            for x, target, said in zip(batch, targets, given, strict=True):
                image = chosen[int(target["image_id"])]
                shown = self._picture(images, image).shape[:2]
                found[image] = _best(said, x.shape[1:], shown, labelled[image])
        return found

    def _picture(self, images: ImageSet, image: int) -> np.ndarray:
        return reduced(images.test[image], _PICTURE, Image.Resampling.BOX)


def guessed(annotated: Sequence[AnnotatedImage], classes: int) -> Evidence:
    """What becomes of naming in each image the boxes of the next: what chance gives."""
    draw = np.random.default_rng(0)
    metric = AveragePrecision(classes)
    for number, image in enumerate(annotated):
        other = annotated[(number + 1) % len(annotated)]
        y, x = (ours / theirs for ours, theirs in zip(image.size, other.size, strict=True))
        single = ~other.objects.crowd
        said = {
            "boxes": torch.from_numpy(other.objects.boxes[single] * (x, y, x, y)),
            "labels": torch.from_numpy(other.objects.labels[single]),
            "scores": torch.from_numpy(draw.random(int(single.sum()))),
        }
        true = {
            "boxes": torch.from_numpy(image.objects.boxes),
            "labels": torch.from_numpy(image.objects.labels),
            "iscrowd": torch.from_numpy(image.objects.crowd),
            "area": torch.from_numpy(image.objects.areas),
            "image_id": torch.tensor(number),
        }
        if len(annotated) == 1:
            said = {key: value[:0] for key, value in said.items()}
        metric.update([said], [true])
    return metric.evidence


def _best(
    said: Mapping[str, Tensor], size: Sequence[int], shown: Sequence[int], labelled: np.ndarray
) -> np.ndarray:
    """(n, 7) of a picture ``shown``: x1, y1, x2, y2, label, score, and whether that is right.

    Args:
        said: what was found in an image of ``size``, the best first.
        size: height and width.
        shown: height and width of the picture.
        labelled: (N, 7) what there is; as many are shown.
    """
    y, x = (there / here for there, here in zip(shown, size, strict=True))
    count = len(labelled)
    boxes = said["boxes"][:count].cpu().double() * torch.tensor([x, y, x, y])
    labels, scores = said["labels"][:count].cpu(), said["scores"][:count].cpu()
    true = torch.from_numpy(labelled)
    overlap = box_iou(boxes, true[:, :4]) * (labels[:, None] == true[:, 4])
    right = torch.zeros(len(boxes))
    for row in range(len(boxes) if count else 0):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= 0.5:
            right[row] = 1
            overlap[:, best] = 0
    columns = [boxes, labels[:, None], scores[:, None], right[:, None]]
    return torch.cat([column.double() for column in columns], 1).numpy()
