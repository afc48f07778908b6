"""Trials of classification: one class an image, at one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from PIL import Image
from torch import nn

from foveate.arguments import one_of
from foveate.data.augmentation import Augment
from foveate.data.batches import Fit, check_augmentation, held_out_batches, train_batches
from foveate.data.images import Images, ImageSet
from foveate.data.moments import Moments
from foveate.saved.info import Architecture, ImageInput
from foveate.study.plan import Plan
from foveate.study.records import Predictions
from foveate.study.tasks.logits import wrong_logits
from foveate.tasks import Classification

_BATCH = 256


class ClassificationStudy:
    """See :class:`foveate.study.tasks.base.StudyTask`."""

    def check(self, plan: Plan) -> None:
        one_of(plan.augment, get_args(Augment), "augment")
        check_augmentation(plan.augment, plan.augment_kwargs, plan.image_size or (32, 32))

    def architecture(self, plan: Plan, name: str, options: Mapping[str, Any]) -> Architecture:
        return Architecture("classifier", name, options)

    def input(self, plan: Plan, images: ImageSet, normalize: Moments) -> ImageInput:
        return ImageInput(
            images.channels,
            plan.image_size or (0, 0),
            "crop",
            normalize.mean,
            normalize.std,
            images.side,
            images.ranges,
        )

    def wrong_output(self, plan: Plan, classes: int, given: Any) -> str | None:
        return wrong_logits((classes,), given)

    def counted(self, model: nn.Module) -> nn.Module:
        return model

    def example(self, plan: Plan, images: ImageSet, count: int, normalize: Moments) -> None:
        return None

    def training(self, plan: Plan, images: ImageSet) -> Classification:
        return Classification(
            len(images.classes),
            label_smoothing=plan.label_smoothing,
            mixup=plan.mixup,
            cutmix=plan.cutmix,
            metric=plan.metric,
        )

    def learning(
        self, plan: Plan, images: ImageSet, seed: int, normalize: Moments, processes: int
    ) -> Any:
        return train_batches(
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
        size = plan.image_size or (0, 0)
        return held_out_batches(
            images, size, _BATCH, split=split, normalize=normalize, processes=processes
        )

    def predictions(self, evaluator: Any, split: Images, images: np.ndarray) -> Predictions:
        predicted, labels = evaluator.classes
        return Predictions(
            predicted.cpu().numpy().astype(np.uint16),
            labels.cpu().numpy().astype(np.uint16),
            images.astype(np.uint32),
        )

    def pictures(
        self, plan: Plan, images: ImageSet, chosen: list[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        fit = Fit(plan.image_size or (0, 0))
        shown = {image: fit(Image.fromarray(images.test[image])) for image in chosen}
        return {i: x.permute(1, 2, 0).squeeze(-1).numpy() for i, x in shown.items()}, {}

    def overlays(
        self, plan: Plan, model: nn.Module, images: ImageSet, chosen: list[int], normalize: Moments
    ) -> None:
        return None
