"""The model and its task as Lightning's loop takes them: a step, an evaluation, what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import distribute_bn
from torch import Tensor, nn

from foveate._distributed import in_step
from foveate.reduction import reducer_of
from foveate.saved.info import ModelInfo
from foveate.training.checkpoint import load_weights, save_weights
from foveate.training.distributed import gather, summed
from foveate.training.ema import average_of
from foveate.training.optimizer import create_optimizer, create_schedule
from foveate.training.recipe import Recipe
from foveate.training.task import Batch, Task


class Trained(pl.LightningModule):
    """The model and its task, with what the epoch so far came to.

    Args:
        model: that learns.
        task: what for.
        recipe: how.
        updates_per_epoch: of the weights.
    """

    def __init__(
        self, model: nn.Module, task: Task, recipe: Recipe, updates_per_epoch: int
    ) -> None:
        super().__init__()
        if recipe.sync_batch_norm:
            model = convert_sync_batchnorm(model)
        self.model = model
        self.average = average_of(model, recipe)
        self.task = task
        self.recipe = recipe
        self.updates_per_epoch = updates_per_epoch
        self.losses = Means()
        self.evaluator = task.evaluator()

    @property
    def judged(self) -> nn.Module:
        """What is measured and saved: the average of the weights, where there is one."""
        return self.model if self.average is None else self.average.module

    def configure_optimizers(self) -> Any:
        optimizer = create_optimizer(self.model, self.recipe)
        schedule = create_schedule(optimizer, self.recipe, self.updates_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            # Lightning counts this update when it is over.
            self.average.update(self.model, step=self.global_step + 1)

    def on_train_epoch_start(self) -> None:
        self.losses = Means()
        self._tell(self.current_epoch / self.recipe.epochs)

    def on_train_end(self) -> None:
        self._tell(1.0)

    def _tell(self, done: float) -> None:
        """Tell a reducer, which may change with it, what share of the training is over."""
        for model in (self.model, self.judged):
            reducer = reducer_of(model)
            if reducer is not None:
                reducer.progress(done)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        with in_step(self.trainer.world_size):
            losses = self.task.losses(self.model, batch)
        self.losses.add(losses, len(batch[0]))
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        self.evaluator.reset()
        if self.trainer.world_size > 1:
            for model in (self.model, self.judged):
                distribute_bn(model, self.trainer.world_size, reduce=True)

    def validation_step(self, batch: Batch, index: int) -> None:
        images, targets = batch
        self.evaluator.update(self.task.predict(self.judged, images), targets)

    def evaluation(self) -> dict[str, float]:
        """What the evaluator makes of the held-out images, those of all processes."""
        if self.trainer.world_size > 1:
            gather(self.evaluator)
        found = {name: float(value) for name, value in self.evaluator.compute().items()}
        missing = [metric.name for metric in self.task.metrics if metric.name not in found]
        if missing:
            raise ValueError(
                f"task {self.task.name} states the metric {missing[0]}, but its evaluator gives "
                f"only {', '.join(found)}"
            )
        return found

    def write(self, path: Path, info: ModelInfo | None = None) -> None:
        """Save the weights that are measured; all processes call this, and the first one writes."""
        if self.trainer.is_global_zero:
            save_weights(self.judged, path, info)

    def read(self, path: Path) -> None:
        """Take the weights at ``path`` for those that are measured."""
        load_weights(self.judged, path)

    def finish(self) -> None:
        """Leave the model with the weights that were measured."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())


class Means:
    """Means over the images of an epoch; the sums stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, means: Mapping[str, Tensor], images: int) -> None:
        """Take in the means over a batch of so many images."""
        self.images += images
        for name, mean in means.items():
            total = mean.detach().float() * images
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def over_processes(self) -> None:
        """Take in what all other processes have."""
        names = list(self._sums)
        device = self._sums[names[0]].device
        images = torch.tensor(self.images, dtype=torch.float64, device=device)
        totals = summed(torch.stack([*(self._sums[name] for name in names), images]))
        *sums, images = totals.unbind()
        self._sums = dict(zip(names, sums, strict=True))
        self.images = int(images)

    def means(self) -> dict[str, float]:
        """The means so far, by name."""
        return {name: total.item() / self.images for name, total in self._sums.items()}
