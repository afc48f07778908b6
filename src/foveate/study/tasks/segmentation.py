"""Trials of segmentation: a head on the host, crops to train on, whole images to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from foveate.arguments import one_of
from foveate.data.images import Images, ImageSet, MaskedImages
from foveate.data.masked_batches import KINDS, options_of, train_crops, whole_images
from foveate.data.moments import Moments
from foveate.models import list_segmenters
from foveate.saved.info import Architecture, ImageInput
from foveate.study.parts import Part
from foveate.study.pixel_predictions import PixelPredictions
from foveate.study.plan import Plan
from foveate.study.tasks.logits import wrong_logits
from foveate.study.tasks.pictures import reduced
from foveate.tasks import Segmentation

_BATCH = 8
_PICTURE = 160
"""Longer side of the pictures in the report."""

_SMALL = {
    "semantic_fpn": {"neck_dim": 64, "dim": 64},
    "upernet": {"dim": 64},
    "psp": {"dim": 64},
    "fcn": {"dim": 64},
}
"""Options of heads in proportion to a small host, where the plan says nothing."""


class SegmentationStudy:
    """See :class:`foveate.study.tasks.base.StudyTask`."""

    def check(self, plan: Plan) -> None:
        one_of(plan.augment, KINDS, "augment")
        one_of(plan.head, list_segmenters(), "head")
        options_of("photo" if plan.augment == "auto" else plan.augment, True, plan.augment_kwargs)

    def architecture(self, plan: Plan, name: str, options: Mapping[str, Any]) -> Architecture:
        head = {**_SMALL.get(plan.head, {}), **plan.head_kwargs}
        return Architecture("segmenter", name, options, plan.head, head, plain=True)

    def input(self, plan: Plan, images: ImageSet, normalize: Moments) -> ImageInput:
        return ImageInput(
            images.channels,
            plan.image_size or (0, 0),
            "keep",
            normalize.mean,
            normalize.std,
            ranges=images.ranges,
            window=plan.window,
        )

    def wrong_output(self, plan: Plan, classes: int, given: Any) -> str | None:
        return wrong_logits((classes, *(plan.image_size or ())), given)

    def counted(self, model: nn.Module) -> nn.Module:
        return model

    def example(self, plan: Plan, images: ImageSet, count: int, normalize: Moments) -> None:
        return None

    def training(self, plan: Plan, images: ImageSet) -> Segmentation:
        weights = None
        if plan.class_weights == "balanced":
            weights = balanced(images.class_pixels or ())
        return Segmentation(
            len(images.classes),
            class_weights=weights,
            dice=plan.dice,
            window=plan.window,
            metric=plan.metric,
        )

    def learning(
        self, plan: Plan, images: ImageSet, seed: int, normalize: Moments, processes: int
    ) -> Any:
        return train_crops(
            images,
            plan.image_size or (0, 0),
            plan.batch_size,
            seed,
            augment=plan.augment,
            augment_kwargs=plan.augment_kwargs,
            normalize=normalize,
            processes=processes,
        )

    def measuring(
        self, plan: Plan, images: ImageSet, split: Images, normalize: Moments, processes: int
    ) -> Any:
        return whole_images(images, _BATCH, split=split, normalize=normalize, processes=processes)

    def predictions(self, evaluator: Any, split: Images, images: np.ndarray) -> PixelPredictions:
        areas = evaluator.areas.cpu().numpy().astype(np.uint32)
        return PixelPredictions(areas, images.astype(np.uint32))

    def pictures(
        self, plan: Plan, images: ImageSet, chosen: list[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        split = cast("MaskedImages | Part", images.test)
        pixels = {image: reduced(split[image], _PICTURE, Image.Resampling.BOX) for image in chosen}
        return pixels, {image: reduced(split.mask(image), _PICTURE) for image in chosen}

    def overlays(
        self, plan: Plan, model: nn.Module, images: ImageSet, chosen: list[int], normalize: Moments
    ) -> dict[int, np.ndarray]:
        task = self.training(plan, images)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in normalize[:2])
        found = {}
        for image in chosen:
            pixels = torch.from_numpy(np.atleast_3d(images.test[image]).copy()).permute(2, 0, 1)
            x = ((pixels / 255 - mean) / std)[None].to(plan.device)
            with torch.inference_mode():
                labels = task.predict(model, x)[0].argmax(0)
            found[image] = reduced(labels.byte().cpu().numpy(), _PICTURE)
        return found


def balanced(pixels: Sequence[int]) -> list[float]:
    """What a pixel of each class counts: by the root of how rare it is, with a mean of one a pixel.

    A class that no training mask has counts as one of a single pixel.
    """
    counts = np.maximum(np.asarray(pixels, dtype=float), 1)
    weights = counts**-0.5
    return (weights * counts.sum() / (weights * counts).sum()).tolist()
