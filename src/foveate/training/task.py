"""What training asks of a task: a loss to learn by, predictions, and metrics to judge them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torchmetrics import Metric as TorchMetric
from torchmetrics import MetricCollection

from foveate.metrics import Metric

Batch = tuple[Any, Any]  # images and targets, one of each for every image: tensors or lists


class Task(Protocol):
    """What a model is trained for.

    A batch is ``(images, targets)``: a tensor (B, C, H, W) or a list of B images of different
    sizes, and whatever the task learns from, such as labels (B,), maps (B, H, W) or a list of B
    dicts. The loop only counts the images and moves both to the device.

    Attributes:
        name: such as ``"classification"``; a checkpoint says which task it is of.
        metrics: what a trained model is judged by; the first one ranks.
    """

    name: str
    metrics: tuple[Metric, ...]

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Run the model in training mode; means over the batch, scalars.

        ``"loss"`` is what is minimised. Other entries are parts of it that the history shows.
        """
        ...

    def predict(self, model: nn.Module, images: Any) -> Any:
        """Run the model in evaluation mode; the predictions for ``images``."""
        ...

    def evaluator(self) -> TorchMetric | MetricCollection:
        """A new one: ``update(predictions, targets)`` a batch, ``compute()`` for all so far.

        ``compute`` gives a dict of numbers: the value of each of :attr:`metrics` by its name, and
        what else the history should hold, such as ``"loss"``. Torchmetrics moves its state to the
        device of the model and sums it over processes.
        """
        ...
