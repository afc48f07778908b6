"""Training, epoch by epoch, so that it can stop anywhere and go on as if it had not.

After each epoch everything that decides the rest (weights, their average, optimizer, schedule,
history) is put into one checkpoint file, whole; at the start of each epoch the batches set every
random generator from (seed, epoch). Lightning runs the loop. What is learnt and measured is the
task's alone.

What is reported is measured once, at the end: on the last epoch's weights, or on those of the epoch
that was best on images for selection, where there are such; on their average where the recipe asks
for one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import nn

from foveate.saved.info import ModelInfo
from foveate.training.checkpoint import (
    BEST,
    CHECKPOINT,
    WEIGHTS,
    CheckpointFiles,
    SaveBest,
    SaveEachEpoch,
)
from foveate.training.distributed import (
    Distribution,
    SharedDirectory,
    create_strategy,
    ending_together,
    explained,
    resolved,
    share_of,
)
from foveate.training.history import EpochRecord, History, Report, TrainingBatches, best_epoch
from foveate.training.loggers import LogEachEpoch, create_loggers
from foveate.training.module import Trained
from foveate.training.recipe import Recipe, check_recipe
from foveate.training.task import Batch, Task


class TrainingResult(NamedTuple):
    """What a training came to.

    Attributes:
        history: a record an epoch.
        train_seconds: spent on training, without evaluation.
        images: trained on in that time.
        reported_epoch: whose weights were measured and are saved.
        values: what the evaluator gives for them on the held-out images.
        evaluator: that gave it, of all images in their order.
        first_epoch: epochs before the model was changed for good, whose weights it cannot take.
    """

    history: list[EpochRecord]
    train_seconds: float
    images: int
    reported_epoch: int
    values: dict[str, float]
    evaluator: Any
    first_epoch: int = 0

    @property
    def images_per_second(self) -> float:
        """The speed of training, of all processes together."""
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
    keep_best: bool = False,
    info: ModelInfo | None = None,
    distribution: Distribution = Distribution(),  # noqa: B008  frozen
    logger: str | Sequence[str] = (),
    settle: Callable[[nn.Module], None] | None = None,
) -> TrainingResult:
    """Train, going on from the checkpoint in ``directory`` if there is one.

    Where several processes train, each calls this with the same arguments, and each has the result.

    Args:
        model: maps what the batches hold to what the task expects; at the end it has the weights
            that were measured (with ``strategy="fsdp"`` they are in the file alone).
        task: what for.
        batches: to learn from; a batch is shared among all processes.
        held_out: to measure on: after every epoch, and at the end; with ``selection`` at the end.
        recipe: how.
        directory: gets ``last.ckpt`` after every epoch and ``model.safetensors`` at the end.
        report: gets a ``Progress`` now and then, and an ``EpochRecord`` after every epoch; in the
            first process.
        selection: images to choose an epoch by, measured after every one: the best by the task's
            first metric is kept and reported in place of the last.
        keep_best: whether to keep the weights of the epoch that is best on the held-out images in
            ``best.safetensors``; what is reported stays what it is.
        info: what ``model.safetensors`` says of the model; its metrics are filled in here.
        distribution: over which processes.
        logger: where else every epoch's record goes: ``"csv"``, ``"tensorboard"`` or ``"wandb"``
            (offline), or several; into ``directory/logs``.
        settle: gets the model with the weights that are reported, before these are measured and
            saved, to choose in it what is not learnt; in every process, with equal result.

    Raises:
        ValueError: if recipe or distribution are wrong or there is no batch to learn from.
        CheckpointError: if the checkpoint is damaged, or of another model, task or optimizer.
        DivergenceError: if the loss is not finite.
        ProcessLostError: if another process of the training ended.
    """
    check_recipe(recipe)
    distribution = resolved(distribution, recipe.device)
    updates = _updates(batches, recipe)
    history = History(batches, report)
    checkpoint = directory / CHECKPOINT
    metric = task.metrics[0]
    kept = keep_best or selection is not None
    best = [SaveBest(directory / BEST, history, metric, info)] if kept else []
    loggers = create_loggers(logger, directory)
    files = CheckpointFiles(task.name, recipe, model)
    trained = _kind_of(distribution)(model, task, recipe, updates)
    with warnings.catch_warnings(), explained(distribution, checkpoint):
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=recipe.device.split(":")[0],
            devices=_devices(recipe.device, distribution),
            num_nodes=distribution.num_nodes or 1,
            strategy=create_strategy(distribution),
            precision=recipe.precision,  # pyrefly: ignore
            gradient_clip_val=recipe.clip_grad,
            accumulate_grad_batches=recipe.accumulate,
            limit_train_batches=None if recipe.accumulate == 1 else updates * recipe.accumulate,
            callbacks=[history, *_watchers(loggers, history, distribution, checkpoint), *best,
                       SaveEachEpoch(checkpoint)],
            plugins=[files],
            logger=loggers or False,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=directory,
        )  # fmt: skip
        with ending_together(trainer):
            history.batches = share_of(batches, trainer, "the images to learn from")
            held_out = share_of(held_out, trainer, "the images held out")
            if selection is not None:
                selection = share_of(selection, trainer, "the images for selection")
            trainer.fit(
                trained,
                history.batches,
                held_out if selection is None else selection,
                ckpt_path=checkpoint if checkpoint.exists() else None,
            )
            reported = recipe.epochs
            if selection is not None:
                reported = best_epoch(history.records, metric)
                trained.read(directory / BEST)
            if settle is not None:
                settle(trained.judged)
            trainer.validate(trained, held_out, verbose=False)
            trained.finish()
            values = trained.evaluation()
            trained.write(directory / WEIGHTS, info and replace(info, metrics=values))
    return TrainingResult(
        history.records,
        history.train_seconds,
        history.images,
        reported,
        values,
        trained.evaluator,
    )


def _updates(batches: TrainingBatches, recipe: Recipe) -> int:
    """Updates of the weights in an epoch."""
    if len(batches) == 0:
        raise ValueError("no batch to learn from: the batch size is larger than the image set")
    updates = len(batches) // recipe.accumulate
    if updates == 0:
        raise ValueError(
            f"accumulate={recipe.accumulate} batches make an update, and an epoch has "
            f"{len(batches)}: take smaller batches, or fewer of them an update"
        )
    return updates


def _kind_of(distribution: Distribution) -> type[Trained]:
    if distribution.strategy != "fsdp":
        return Trained
    from foveate.training.sharding import ShardedTrained

    return ShardedTrained


def _watchers(
    loggers: list[Any], history: History, distribution: Distribution, checkpoint: Path
) -> list[pl.Callback]:
    several = (distribution.devices or 1) * (distribution.num_nodes or 1) > 1
    return [
        *([SharedDirectory(checkpoint)] if several else []),
        *([LogEachEpoch(history)] if loggers else []),
    ]


def _devices(device: str, distribution: Distribution) -> Any:
    kind, _, number = device.partition(":")
    if number:
        return [int(number)]
    devices = distribution.devices or 1
    return devices if kind == "cpu" or devices > 1 else [0]
