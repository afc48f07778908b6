"""What a study asks of a task, beside what training does (:class:`foveate.training.Task`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from foveate.data.images import Images, ImageSet
from foveate.data.moments import Moments
from foveate.saved.info import Architecture, ImageInput
from foveate.study.plan import Plan
from foveate.study.records import Predicted
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

    def wrong_output(self, plan: Plan, classes: int, given: Any) -> str | None:
        """Why that cannot be what a model gives for a batch of the plan's size, in words."""
        ...

    def counted(self, model: nn.Module) -> Callable[[Tensor], Any]:
        """What multiply-adds are counted of, from images of one size."""
        ...

    def example(self, plan: Plan, images: ImageSet, count: int, normalize: Moments) -> Any:
        """So many images to measure speed and memory with; None where noise serves."""
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

    def predictions(self, evaluator: Any, split: Images, images: np.ndarray) -> Predicted:
        """What an evaluator has seen of a split, whose images have these numbers."""
        ...

    def pictures(
        self, plan: Plan, images: ImageSet, chosen: list[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Of held-out images, the pixels to show, (h, w) or (h, w, 3), and what is true of them.

        That is the labels of their pixels (h, w), or (n, 7) boxes as x1, y1, x2, y2, label, score
        and whether it is right; nothing where classes are of images.
        """
        ...

    def overlays(
        self, plan: Plan, model: nn.Module, images: ImageSet, chosen: list[int], normalize: Moments
    ) -> dict[int, np.ndarray] | None:
        """The same as a model says it of these pictures; None where classes are of images."""
        ...
