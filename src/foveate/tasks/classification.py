"""Classification: one class an image, learnt by cross entropy, judged by the share of hits.

``loss = -sum_k t_k log softmax(logits)_k``, where the target ``t`` is the class (one-hot), spread
over all classes by label smoothing, and with mixup or cutmix that of two images in proportion. On
held-out
images the loss is the plain cross entropy, so that recipes can be compared by it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric as TorchMetric
from torchmetrics.utilities import dim_zero_cat

from foveate.arguments import one_of, positive, probability
from foveate.metrics import ACCURACY, BALANCED_ACCURACY, Metric


class Classification:
    """The model maps images (B, C, H, W) to logits (B, K); targets are class indices (B,).

    Args:
        num_classes: K.
        label_smoothing: share of the target spread over all classes.
        mixup: timm's mixup alpha; 0 mixes nothing. Images are mixed in pairs, so a batch of an odd
            number is left as it is.
        cutmix: timm's cutmix alpha, likewise; with both, each batch is mixed one way or the other.
        metric: the one that ranks: accuracy or balanced accuracy; both are measured.

    Raises:
        ValueError: if a number is out of its range.
    """

    name = "classification"

    def __init__(
        self,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        metric: Metric = ACCURACY,
    ) -> None:
        known = (ACCURACY, BALANCED_ACCURACY)
        one_of(metric.name, [each.name for each in known], "metric")
        self.metrics: tuple[Metric, ...] = (metric, *(each for each in known if each != metric))
        self.label_smoothing = probability(label_smoothing, "label_smoothing")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not (math.isfinite(alpha) and alpha >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {alpha!r}")
        self._mixup: Mixup | None = None
        if mixup > 0 or cutmix > 0:
            self._mixup = Mixup(
                mixup,
                cutmix,
                label_smoothing=label_smoothing,
                num_classes=positive(num_classes, "num_classes"),
            )

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, loss = self.mixed(batch)
        return {"loss": loss(model(x))}

    def mixed(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The images to learn from, mixed where the task says so, and the loss of their logits."""
        x, target = batch
        if self._mixup is not None and len(x) % 2 == 0:
            x, soft = self._mixup(x, target)
            return x, lambda logits: SoftTargetCrossEntropy()(logits, soft)
        if self._mixup is not None:
            warnings.warn(
                f"a batch of {len(x)} images is not mixed: mixup takes an even number", stacklevel=2
            )
        smoothing = self.label_smoothing
        return x, lambda logits: F.cross_entropy(logits, target, label_smoothing=smoothing)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, K), float32."""
        return model(images).float()

    def evaluator(self) -> Evaluator:
        return Evaluator()


class Evaluator(TorchMetric):
    """Mean cross entropy, accuracy, balanced accuracy, and the class given to every image."""

    higher_is_better = None  # of several figures; the metrics of the task say it for each
    full_state_update = False
    loss: Tensor
    predicted: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.loss = self.loss + F.cross_entropy(logits, target) * len(logits)
        self.predicted.append(logits.argmax(1))
        self.labels.append(target)

    @property
    def classes(self) -> tuple[Tensor, Tensor]:
        """Predicted and true class of each image, in the order that they came in."""
        return dim_zero_cat(self.predicted), dim_zero_cat(self.labels)

    def compute(self) -> dict[str, float]:
        predicted, labels = self.classes
        images = torch.bincount(labels)
        hits = torch.bincount(labels[predicted == labels], minlength=len(images))
        present = images > 0
        recalls = hits[present].double() / images[present]
        return {
            "loss": float(self.loss) / len(labels),
            "accuracy": int(hits.sum()) / len(labels),
            "balanced_accuracy": float(recalls.mean()),
        }
