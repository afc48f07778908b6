"""Trainings with a step of their own: a reduced model that is pruned, or that settles something.

A model whose reducer has something to end (``prunes_after``) is trained for that share of the
epochs, changed for good, and trained on for the rest, each part with the whole of its learning
rate's schedule. One that is to choose something on images apart (``settles``) does so at the very
end, before it is measured. All others are trained as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.reduction import reducer_of
from foveate.training.distributed import Distribution
from foveate.training.history import EpochRecord, Progress, Report, TrainingBatches
from foveate.training.loop import TrainingResult, train
from foveate.training.recipe import Recipe
from foveate.training.task import Batch, Task

BEFORE = "before"
"""In a training's directory, that of the part before the model is changed for good."""


def train_in_stages(
    model: nn.Module,
    task: Task,
    batches: TrainingBatches,
    held_out: Iterable[Batch],
    recipe: Recipe,
    directory: Path,
    report: Report = lambda event: None,
    selection: Iterable[Batch] | None = None,
    *,
    apart: Iterable[Batch] | None = None,
    distribution: Distribution = Distribution(),  # noqa: B008  frozen
    **others: Any,
) -> TrainingResult:
    """:func:`~foveate.training.train`, with the steps that the model's reducer asks for.

    Args:
        model: as for that function, and so are the others.
        task: what for.
        batches: to learn from.
        held_out: to measure on.
        recipe: how, for all parts together.
        directory: of the training; ``before`` within it is that of the first part.
        report: gets the epochs of all parts, counted on.
        selection: images to choose an epoch by.
        apart: images that are neither learnt from nor measured on, where the reducer settles
            something on them.
        distribution: over which processes.
        **others: of that function.

    Raises:
        ValueError: as that function does; also if there are too few epochs for two parts, or
            the model lies in parts (``strategy="fsdp"``).
    """
    reducer = reducer_of(model)
    share = None if reducer is None else reducer.prunes_after
    settles = reducer is not None and reducer.settles
    if (share is not None or settles) and distribution.strategy == "fsdp":
        raise ValueError(
            f"{type(reducer).__name__} is changed when it has been trained, which a model in parts "
            "cannot be: train without strategy=fsdp"
        )

    def settle(trained: nn.Module) -> None:
        chosen: Any = reducer_of(trained)
        trained.to(recipe.device).eval()
        with torch.no_grad():
            chosen.settle(images.to(recipe.device) for images, _ in apart or ())

    more = {"distribution": distribution, **({"settle": settle} if settles else {})}
    if reducer is None or share is None:
        return train(
            model, task, batches, held_out, recipe, directory, report, selection, **more, **others
        )
    first = epochs_before(recipe.epochs, share)
    (directory / BEFORE).mkdir(exist_ok=True)
    watched = held_out if selection is None else selection
    before = train(
        model, task, batches, watched, _part(recipe, first), directory / BEFORE, report,
        distribution=distribution,
    )  # fmt: skip
    reducer.finish()
    after = train(
        model, task, _Later(batches, first), held_out, _part(recipe, recipe.epochs - first),
        directory, _counted_on(report, first), selection, **more, **others,
    )  # fmt: skip
    return TrainingResult(
        [*before.history, *(_later(record, first) for record in after.history)],
        before.train_seconds + after.train_seconds,
        before.images + after.images,
        first + after.reported_epoch,
        after.values,
        after.evaluator,
        first,
    )


def epochs_before(epochs: int, share: float) -> int:
    """Epochs of the part before the model is changed, at least one, and one after it.

    Raises:
        ValueError: if there are fewer than two.
    """
    if epochs < 2:
        raise ValueError(
            f"the model is trained, pruned and trained on, which takes two epochs; epochs={epochs}"
        )
    return min(max(1, round(share * epochs)), epochs - 1)


def _part(recipe: Recipe, epochs: int) -> Recipe:
    warmup = min(recipe.warmup_epochs, epochs / 2)
    return replace(recipe, epochs=epochs, warmup_epochs=warmup)


def _later(record: EpochRecord, epochs: int) -> EpochRecord:
    return record._replace(epoch=record.epoch + epochs)


def _counted_on(report: Report, epochs: int) -> Report:
    """``report``, told of epochs that are counted on from ``epochs``."""

    def told(event: Progress | EpochRecord) -> None:
        report(event._replace(epoch=event.epoch + epochs))

    return told


class _Later:
    """Batches whose epochs are counted on, so that no order of images comes twice.

    Args:
        batches: of the whole training.
        epochs: that are over.
    """

    def __init__(self, batches: Any, epochs: int) -> None:
        self.batches, self.epochs = batches, epochs
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(self.epochs + epoch)

    def share(self, rank: int, world_size: int) -> _Later:
        return _Later(self.batches.share(rank, world_size), self.epochs)
