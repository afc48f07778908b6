"""Training, epoch by epoch, so that it can stop anywhere and go on as if it had not.

After each epoch everything that decides the rest (weights, optimizer, schedule, history) is put
into one checkpoint file, whole; at the start of each epoch the batches set every random generator
from (seed, epoch). Lightning runs the loop. What is learnt and measured is the task's alone.

What is reported is measured once, at the end: on the last epoch's weights, or on those of the epoch
that was best on images for selection, where there are such.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor, nn

from foveate.saved.info import ModelInfo
from foveate.training.checkpoint import (
    BEST,
    CHECKPOINT,
    WEIGHTS,
    CheckpointFiles,
    SaveBest,
    SaveEachEpoch,
    load_weights,
    save_weights,
)
from foveate.training.history import EpochRecord, History, Report, TrainingBatches, best_epoch
from foveate.training.recipe import Recipe, check_recipe, create_optimizer, create_schedule
from foveate.training.task import Batch, Task


class TrainingResult(NamedTuple):
    """What a training came to.

    Attributes:
        history: a record an epoch.
        train_seconds: spent on training, without evaluation.
        images: trained on in that time.
        reported_epoch: whose weights were measured and are saved.
        values: what the evaluator gives for them on the held-out images.
        evaluator: that gave it.
    """

    history: list[EpochRecord]
    train_seconds: float
    images: int
    reported_epoch: int
    values: dict[str, float]
    evaluator: Any

    @property
    def images_per_second(self) -> float:
        """The speed of training."""
        return self.images / self.train_seconds


def train(
    model: nn.Module,
    task: Task,
    batches: TrainingBatches,
    held_out: Iterable[Batch],
    recipe: Recipe,
    directory: Path,
    report: Report = lambda event: None,
    selection: Iterable[Batch] | None = None,
    info: ModelInfo | None = None,
) -> TrainingResult:
    """Train, going on from the checkpoint in ``directory`` if there is one.

    Args:
        model: maps what the batches hold to what the task expects.
        task: what for.
        batches: to learn from.
        held_out: to measure on: after every epoch, and at the end; with ``selection`` at the end.
        recipe: how.
        directory: gets ``last.ckpt`` after every epoch and ``model.safetensors`` at the end.
        report: gets a ``Progress`` now and then, and an ``EpochRecord`` after every epoch.
        selection: images to choose an epoch by, measured after every one: the best by the task's
            first metric is kept and reported in place of the last.
        info: what ``model.safetensors`` says of the model; its metrics are filled in here.

    Raises:
        ValueError: if the recipe is wrong or there is no batch to learn from.
        CheckpointError: if the checkpoint is damaged, or of another model, task or optimizer.
        DivergenceError: if the loss is not finite.
    """
    check_recipe(recipe)
    if len(batches) == 0:
        raise ValueError("no batch to learn from: the batch size is larger than the image set")
    history = History(batches, report)
    checkpoint = directory / CHECKPOINT
    metric = task.metrics[0]
    keep_best = [] if selection is None else [SaveBest(directory / BEST, history, metric)]
    trained = _Trained(model, task, recipe, len(batches))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=recipe.device.split(":")[0],
            devices=_devices(recipe.device),
            precision=recipe.precision,  # pyrefly: ignore
            gradient_clip_val=recipe.clip_grad,
            callbacks=[history, *keep_best, SaveEachEpoch(checkpoint)],
            plugins=[CheckpointFiles(task.name, recipe, model)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=directory,
        )
        trainer.fit(
            trained,
            batches,
            held_out if selection is None else selection,
            ckpt_path=checkpoint if checkpoint.exists() else None,
        )
        reported = recipe.epochs
        if selection is not None:
            reported = best_epoch(history.records, metric)
            load_weights(model, directory / BEST)
        trainer.validate(trained, held_out, verbose=False)
    values = trained.evaluation()
    save_weights(model, directory / WEIGHTS, info and replace(info, metrics=values))
    return TrainingResult(
        history.records,
        history.train_seconds,
        history.images,
        reported,
        values,
        trained.evaluator,
    )


class _Trained(pl.LightningModule):
    """The model and its task, with what the epoch so far came to."""

    def __init__(
        self, model: nn.Module, task: Task, recipe: Recipe, updates_per_epoch: int
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.recipe = recipe
        self.updates_per_epoch = updates_per_epoch
        self.losses = _Means()
        self.evaluator = task.evaluator()

    def configure_optimizers(self) -> Any:
        optimizer = create_optimizer(self.model, self.recipe)
        schedule = create_schedule(optimizer, self.recipe, self.updates_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def on_train_epoch_start(self) -> None:
        self.losses = _Means()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = self.task.losses(self.model, batch)
        self.losses.add(losses, len(batch[0]))
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        self.evaluator.reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        images, targets = batch
        self.evaluator.update(self.task.predict(self.model, images), targets)

    def evaluation(self) -> dict[str, float]:
        """What the evaluator makes of the held-out images."""
        found = {name: float(value) for name, value in self.evaluator.compute().items()}
        missing = [metric.name for metric in self.task.metrics if metric.name not in found]
        if missing:
            raise ValueError(
                f"task {self.task.name} states the metric {missing[0]}, but its evaluator gives "
                f"only {', '.join(found)}"
            )
        return found


class _Means:
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

    def means(self) -> dict[str, float]:
        """The means so far, by name."""
        return {name: total.item() / self.images for name, total in self._sums.items()}


def _devices(device: str) -> Any:
    kind, _, number = device.partition(":")
    return [int(number)] if number else 1 if kind == "cpu" else [0]
