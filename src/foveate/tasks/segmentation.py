"""Segmentation: a class for every pixel, learnt by cross entropy, judged by the mean IoU.

    loss = sum_j w_j (cross entropy(y_j, t) + d Dice(y_j, t))

over the outputs y_j of the model: ``"out"``, and those of auxiliary heads with what each counts
(:attr:`~foveate.models.segmenter.Segmenter.loss_weights`). Both losses are means over pixels that
count (:mod:`foveate.tasks.segmentation_losses`). On held-out images the loss is the plain cross
entropy of ``"out"``.

Images are predicted whole, at their own size, or window by window: windows lie two thirds of their
side apart, the last ones at the border, and logits are averaged where they overlap, as in
mmsegmentation's ``slide`` mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import one_of, pair, positive
from foveate.metrics import MEAN_CLASS_ACCURACY, MEAN_DICE, MEAN_IOU, PIXEL_ACCURACY, Metric
from foveate.models.segmenter import AUXILIARY_WEIGHT
from foveate.tasks.segmentation_losses import IGNORED, dice_loss, pixel_cross_entropy
from foveate.tasks.segmentation_metrics import AreaMetric

METRICS = (MEAN_IOU, PIXEL_ACCURACY, MEAN_CLASS_ACCURACY, MEAN_DICE)
_STEP = 2 / 3


class Segmentation:
    """The model maps images (B, C, H, W) to logits (B, K, H, W), or to a dict of such in training.

    Targets are labels (B, H, W), or B of (H, W) where images differ in size.

    Args:
        num_classes: K.
        ignored: label of pixels that count nowhere.
        class_weights: (K,), what a pixel of each class counts in the cross entropy.
        dice: what the Dice loss counts beside the cross entropy.
        window: height and width of the windows that held-out images are predicted by; None for
            whole images.
        metric: the one that ranks; all four of ``foveate.metrics`` for pixels are measured.

    Raises:
        ValueError: if a number is out of its range, or there is not one weight a class.
    """

    name = "segmentation"

    def __init__(
        self,
        num_classes: int,
        *,
        ignored: int = IGNORED,
        class_weights: Sequence[float] | Tensor | None = None,
        dice: float = 0.0,
        window: int | tuple[int, int] | None = None,
        metric: Metric = MEAN_IOU,
    ) -> None:
        self.num_classes = positive(num_classes, "num_classes")
        one_of(metric.name, [each.name for each in METRICS], "metric")
        self.metrics: tuple[Metric, ...] = (metric, *(each for each in METRICS if each != metric))
        self.ignored = ignored
        self.class_weights = None if class_weights is None else torch.as_tensor(class_weights)
        if self.class_weights is not None and self.class_weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights needs one for each of {num_classes} classes, "
                f"got {tuple(self.class_weights.shape)}"
            )
        if not dice >= 0:
            raise ValueError(f"dice must be at least 0, got {dice!r}")
        self.dice = float(dice)
        self.window = None if window is None else pair(window, "window")

    def losses(self, model: nn.Module, batch: tuple[Any, Any]) -> Mapping[str, Tensor]:
        images, labels = batch
        if not isinstance(images, Tensor):
            sizes = ", ".join(f"{x.shape[-2]}x{x.shape[-1]}" for x in images[:3])
            raise ValueError(f"training needs images of one size a batch, got {sizes}: crop them")
        outputs = model(images)
        if isinstance(outputs, Tensor):
            return {"loss": self.loss(outputs, labels)}
        weights = getattr(model, "loss_weights", {"out": 1.0})
        parts = {name: self.loss(logits, labels) for name, logits in outputs.items()}
        total = sum(weights.get(name, AUXILIARY_WEIGHT) * part for name, part in parts.items())
        return {"loss": total, **(parts if len(parts) > 1 else {})}  # pyrefly: ignore

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of one output."""
        loss = pixel_cross_entropy(logits, labels, self.class_weights, self.ignored)
        if self.dice:
            loss = loss + self.dice * dice_loss(logits, labels, self.ignored)
        return loss

    def predict(self, model: nn.Module, images: Tensor | Sequence[Tensor]) -> Any:
        """Logits (B, K, H, W), float32; B of (K, H, W) for a list of images of any sizes."""
        if isinstance(images, Tensor):
            return self._logits(model, images)
        return [self._logits(model, x[None])[0] for x in images]

    def _logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return _out(model, x) if self.window is None else by_windows(model, x, self.window)

    def evaluator(self) -> Evaluator:
        return Evaluator(self.num_classes, self.ignored)


def _out(model: nn.Module, x: Tensor) -> Tensor:
    given = model(x)
    return (given if isinstance(given, Tensor) else given["out"]).float()


def by_windows(model: nn.Module, x: Tensor, window: tuple[int, int]) -> Tensor:
    """Logits (B, K, H, W) of images (B, C, H, W), predicted window by window; see the module."""
    size = x.shape[-2:]
    height, width = (min(side, whole) for side, whole in zip(window, size, strict=True))
    total: Tensor | None = None
    seen = x.new_zeros(size)
    for top in _starts(size[0], height):
        for left in _starts(size[1], width):
            part = slice(top, top + height), slice(left, left + width)
            logits = _out(model, x[:, :, part[0], part[1]])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *size)
            total[:, :, part[0], part[1]] += logits
            seen[part] += 1
    assert total is not None
    return total / seen


def _starts(whole: int, side: int) -> list[int]:
    """Where windows of ``side`` begin, so that they cover ``whole``."""
    step = max(1, int(_STEP * side))
    return [min(start, whole - side) for start in range(0, max(whole - side + step, 1), step)]


class Evaluator(AreaMetric):
    """Mean cross entropy of the pixels that count, areas of each image, and what they come to."""

    loss: Tensor
    counted: Tensor

    def __init__(self, num_classes: int, ignored: int = IGNORED) -> None:
        super().__init__(num_classes, ignored)
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counted", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Iterable[Tensor], labels: Iterable[Tensor]) -> None:
        """Count a batch: logits (B, K, H, W) and labels (B, H, W), or B of each."""
        for ours, theirs in zip(logits, labels, strict=True):
            each = F.cross_entropy(
                ours[None], theirs[None], ignore_index=self.ignored, reduction="sum"
            )
            self.loss = self.loss + each.double()
            self.counted = self.counted + (theirs != self.ignored).sum()
            super().update([ours.argmax(0)], [theirs])

    def compute(self) -> dict[str, float]:
        return {"loss": float(self.loss / self.counted.clamp_min(1)), **super().compute()}
