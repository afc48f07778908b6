"""What a study asks of a task, beside what training does (:class:`foveate.training.Task`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from foveate.data.images import Images, ImageSet
from foveate.data.moments import Moments
from foveate.saved.info import Architecture, ImageInput
from foveate.study.pixel_predictions import PixelPredictions
from foveate.study.plan import Plan
from foveate.study.records import Predictions
from foveate.training import Task


class StudyTask(Protocol):
    """What a trial does for a task."""

    def check(self, plan: Plan) -> None:
        """Refuse settings that trials would stumble over.

        Raises:
            ValueError: if one is wrong.
        """
        ...

    def architecture(self, plan: Plan, name: str, options: Mapping[str, Any]) -> Architecture:
        """How a model on one of timm's is built; ``options`` are of its backbone."""
        ...

    def input(self, plan: Plan, images: ImageSet, normalize: Moments) -> ImageInput:
        """How a trained model is to get its images."""
        ...

    def shape(self, plan: Plan, classes: int) -> tuple[int, ...]:
        """Of what a model gives for one image of the plan's size."""
        ...

    def outputs(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """All that a model gives in training."""
        ...

    def training(self, plan: Plan, images: ImageSet) -> Task:
        """What the model is trained for."""
        ...

    def learning(
        self, plan: Plan, images: ImageSet, seed: int, normalize: Moments, processes: int
    ) -> Any:
        """Batches to learn from."""
        ...

    def measuring(
        self, plan: Plan, images: ImageSet, split: Images, normalize: Moments, processes: int
    ) -> Any:
        """Batches of ``split``, in order."""
        ...

    def predictions(self, evaluator: Any, images: np.ndarray) -> Predictions | PixelPredictions:
        """What an evaluator has seen, of these images."""
        ...

    def pictures(
        self, plan: Plan, images: ImageSet, chosen: list[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Of held-out images, the pixels to show, (h, w) or (h, w, 3), and their labels, if any."""
        ...

    def segments(
        self, plan: Plan, model: nn.Module, images: ImageSet, chosen: list[int], normalize: Moments
    ) -> dict[int, np.ndarray] | None:
        """The labels that a model gives to these pictures; None where it gives none."""
        ...
