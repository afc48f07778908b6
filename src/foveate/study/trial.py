"""What happens in the processes of a study: looking at a plan, tuning, a trial."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn

import foveate.models  # noqa: F401  registers the hosts with timm
from foveate._random import seed_all
from foveate._user_code import import_all
from foveate.analysis.flops import count_flops
from foveate.data.batches import Batches
from foveate.data.images import Images, ImageSet, loader_processes
from foveate.models import CONTROLS
from foveate.reduction import reducer_of
from foveate.registry import describe
from foveate.saved.rebuild import rebuild
from foveate.study.early_exits import exits_of
from foveate.study.entry import Entry
from foveate.study.health import assess
from foveate.study.host import own_host
from foveate.study.kinds import KINDS
from foveate.study.lock import lock
from foveate.study.model_info import architecture_of, info_of
from foveate.study.own_host import (
    LABELS,
    create_host,
    is_reducer,
    learnt,
    model_channels,
    normalization,
    put_in,
)
from foveate.study.parts import folds, with_selection
from foveate.study.plan import Plan
from foveate.study.provenance import settings_of_trial
from foveate.study.records import (
    FINAL_PREDICTIONS,
    BatchDone,
    EpochRecord,
    Health,
    Predicted,
    Records,
    Subject,
    TrialRecord,
    Tried,
    Tuning,
)
from foveate.study.tasks import task_of
from foveate.surgery.fuse import fuse
from foveate.surgery.recipe import freeze_norms
from foveate.training import (
    BEFORE,
    BEST,
    CHECKPOINT,
    WEIGHTS,
    DivergenceError,
    Progress,
    Recipe,
    TrainingResult,
    load_weights,
    train_in_stages,
)
from foveate.training import EpochRecord as TrainedEpoch

Tell = Callable[[Any], None]

_LOCK_SECONDS = 120.0
"""As long as a node of a cluster may take to notice that it is lost, and to end its trial."""


def run_trial(root: Path, plan: Plan, entry: Entry, seed: int, tell: Tell) -> TrialRecord:
    """Train one model, or one a fold, and leave the record in the run directory."""
    records = Records(root)
    folder = records.trial_folder(entry.key, seed)
    with lock(folder / ".lock", _LOCK_SECONDS) as ours:
        if not ours:
            raise RuntimeError(f"another process is at work in {folder}")
        set_up(plan)
        images = read_images(root, plan)
        tuning = records.tuning(entry.key)
        settings = settings_of_trial(plan, entry)
        plan = plan if tuning is None else replace(plan, lr=tuning.lr)
        seed_all(seed)
        known = costs(
            plan, build(plan, entry, len(images.classes), images.channels), images.channels
        )
        begun = TrialRecord(
            subject=subject_of(entry, plan),
            seed=seed,
            host=plan.host,
            epochs=plan.epochs,
            metric=plan.metric,
            parameters=known.parameters,
            multiply_adds=known.multiply_adds,
            lr=plan.lr,
            settings=settings,
        )
        history = _Told(records, entry, seed, plan, tell)
        try:
            fitted = _fit_folds(plan, entry, images, seed, folder, history)
        except DivergenceError as error:
            record = replace(begun, error=str(error), health=Health(diverged=True))
            records.write_trial(record)
            return record
        if is_reducer(entry):
            begun = _as_trained(begun, plan, entry, images, folder)
        record = _finished(begun, fitted, records)
        records.write_trial(record)
        drop_checkpoints(folder)
        return record


def drop_checkpoints(folder: Path) -> None:
    """Remove what a trial needs only until it is whole."""
    for name in (CHECKPOINT, BEST):
        for path in (folder / name, *folder.glob(f"fold*/{name}")):
            path.unlink(missing_ok=True)
    for path in (folder / BEFORE, *folder.glob(f"fold*/{BEFORE}")):
        shutil.rmtree(path, ignore_errors=True)


def tune(root: Path, plan: Plan, entry: Entry, tell: Tell) -> Tuning:
    """Train with every learning rate of the grid, and choose on a part of the training images."""
    records = Records(root)
    set_up(plan)
    images, selection = with_selection(read_images(root, plan))
    images = replace(images, test=selection)
    tried = []
    for number, lr in enumerate(plan.lr_grid):
        folder = root / "tuned" / entry.key / f"{lr:g}"
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        at_rate = replace(plan, lr=lr, select="last")
        score = None
        try:
            trained = _fit(
                at_rate, entry, images, plan.seeds[0], folder, _shifted(tell, plan, number)
            )
            score = trained.values[plan.metric.name]
        except DivergenceError:
            pass
        tried.append(Tried(lr, score, time.perf_counter() - started))
    sign = 1 if plan.metric.higher_is_better else -1
    scored = [(sign * each.score, -number, each.lr) for number, each in enumerate(tried)
              if each.score is not None]  # fmt: skip
    if not scored:
        raise DivergenceError(f"{entry.label} diverged with every learning rate of the grid")
    tuning = Tuning(entry.key, tuple(tried), max(scored)[2], len(images.train), len(selection))
    records.write_tuning(tuning)
    shutil.rmtree(root / "tuned" / entry.key)
    return tuning


def measure_final(root: Path, plan: Plan, tell: Tell) -> int:
    """Let every trained model predict the images kept for the very end; returns how many did."""
    records = Records(root)
    set_up(plan)
    images = read_images(root, plan)
    if images.final is None:
        return 0
    images = replace(
        folds(images, plan.folds, plan.image_size or (0, 0))[0].images, test=images.final
    )
    measured = 0
    for entry, seed in plan.trials:
        trial = records.trial(entry.key, seed)
        if trial is None or trial.status != "done":
            continue
        if records.predictions(entry.key, seed, FINAL_PREDICTIONS) is not None:
            continue
        model = build(plan, entry, len(images.classes), images.channels, pretrained=False)
        load_weights(model, records.trial_folder(entry.key, seed) / WEIGHTS)
        model = model.eval().to(plan.device)
        work = task_of(plan)
        task = work.training(plan, images)
        evaluator = task.evaluator()
        with torch.inference_mode():
            for x, targets in measuring_batches(plan, images.test, images, model):
                found = task.predict(model, move_data_to_device(x, plan.device))
                evaluator.update(move_data_to_device(found, "cpu"), targets)
        found = work.predictions(evaluator, images.test, np.arange(len(images.test)))
        records.write_predictions(entry.key, seed, found, FINAL_PREDICTIONS)
        measured += 1
        tell(entry.label)
    return measured


class _Told:
    """Passes on what happens in a trial, and keeps its history on disk, over all folds."""

    def __init__(self, records: Records, entry: Entry, seed: int, plan: Plan, tell: Tell) -> None:
        self.records, self.key, self.seed, self.plan, self.tell = (
            records,
            entry.key,
            seed,
            plan,
            tell,
        )
        self.before: list[list[EpochRecord]] = []
        self.now: list[EpochRecord] = []
        folder = records.trial_folder(entry.key, seed)
        begun = any((part / CHECKPOINT).exists() for part in (folder, folder / BEFORE))
        if plan.folds is None and begun:
            self.now = records.history(entry.key, seed)

    def __call__(self, event: Progress | TrainedEpoch) -> None:
        done = len(self.before) * self.plan.epochs
        if isinstance(event, Progress):
            self.tell(BatchDone(done + event.epoch, event.batch, event.batches))
            return
        epoch = _epoch(event, self.plan)
        self.now[epoch.epoch - 1 :] = [epoch]
        if not self.before:
            self.write()
        self.tell(epoch._replace(epoch=done + epoch.epoch))

    def next_fold(self, history: Sequence[TrainedEpoch]) -> None:
        """A fold is over; its history as its checkpoint has it."""
        self.before.append([_epoch(epoch, self.plan) for epoch in history])
        self.now = []

    def write(self) -> None:
        """Put the history so far on disk."""
        self.records.write_history(self.key, self.seed, self.history)

    @property
    def history(self) -> list[EpochRecord]:
        """Epoch by epoch, the mean over the folds that are over; of the first one until it is."""
        return _mean_history(self.before) if self.before else self.now


def _mean_history(histories: Sequence[Sequence[EpochRecord]]) -> list[EpochRecord]:
    if len(histories) == 1:
        return list(histories[0])
    return [
        EpochRecord(
            epochs[0].epoch,
            fmean(epoch.train_loss for epoch in epochs),
            _mean_of(epoch.loss for epoch in epochs),
            fmean(epoch.score for epoch in epochs),
            sum(epoch.seconds for epoch in epochs),
        )
        for epochs in zip(*histories, strict=True)
    ]


def _mean_of(losses: Iterable[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return fmean(known) if known else None


def _shifted(tell: Tell, plan: Plan, number: int) -> Callable[[Progress | TrainedEpoch], None]:
    """Pass on what happens while the ``number``-th learning rate of a grid is tried."""

    def report(event: Progress | TrainedEpoch) -> None:
        done = number * plan.epochs + event.epoch
        if isinstance(event, Progress):
            tell(BatchDone(done, event.batch, event.batches))
        else:
            tell(_epoch(event, plan)._replace(epoch=done))

    return report


class _Fitted(NamedTuple):
    """What the folds of a trial came to, together."""

    history: list[EpochRecord]
    predictions: Predicted
    loss: float | None
    reported_epoch: int
    train_seconds: float
    images: int


def _fit_folds(
    plan: Plan, entry: Entry, images: ImageSet, seed: int, folder: Path, told: _Told
) -> _Fitted:
    """Train a model a fold; the weights of the first one lie in the trial's own folder."""
    work, results, predictions = task_of(plan), [], []
    for number, fold in enumerate(folds(images, plan.folds, plan.image_size or (0, 0))):
        place = folder / f"fold{number}" if number else folder
        place.mkdir(exist_ok=True)
        result = _fit(plan, entry, fold.images, seed, place, told)
        told.next_fold(result.history)
        predictions.append(work.predictions(result.evaluator, fold.images.test, fold.held_out))
        results.append(result)
    told.write()
    losses = [result.values.get("loss") for result in results]
    weights = [len(each.images) for each in predictions]
    return _Fitted(
        told.history,
        type(predictions[0]).joined(predictions),
        None if None in losses else float(np.average(losses, weights=weights)),  # pyrefly: ignore
        round(fmean(result.reported_epoch for result in results)),
        sum(result.train_seconds for result in results),
        sum(result.images for result in results),
    )


def _fit(
    plan: Plan,
    entry: Entry,
    images: ImageSet,
    seed: int,
    folder: Path,
    report: Callable[[Progress | TrainedEpoch], None],
) -> TrainingResult:
    """Train one model on ``images``."""
    part = None
    if plan.select == "best":
        images, part = with_selection(images)
    seed_all(seed)
    model = build(plan, entry, len(images.classes), images.channels)
    if plan.freeze == "norms":
        freeze_norms(model)
    task = learnt(plan, entry, images)
    apart = None
    reducer = reducer_of(model)
    if reducer is not None and reducer.settles:
        images, rest = with_selection(images)
        apart = measuring_batches(plan, rest, images, model)
    learning = learning_batches(plan, model, images, seed)
    held_out = measuring_batches(plan, images.test, images, model)
    selection = None if part is None else measuring_batches(plan, part, images, model)
    info = info_of(plan, entry, images, model)
    recipe = recipe_of(plan)
    return train_in_stages(
        model, task, learning, held_out, recipe, folder, report, selection, apart=apart, info=info
    )


def learning_batches(plan: Plan, model: nn.Module, images: ImageSet, seed: int) -> Batches:
    """What a trial of this plan learns from."""
    normalize = normalization(plan, model, images.moments, images.channels)
    processes = loader_processes(images.train, plan.device)
    return task_of(plan).learning(plan, images, seed, normalize, processes)


def measuring_batches(plan: Plan, split: Images, images: ImageSet, model: nn.Module) -> Batches:
    """Batches of ``split`` in order, normalised as the training images of ``images`` are."""
    normalize = normalization(plan, model, images.moments, images.channels)
    processes = 0 if split.in_memory else loader_processes(split, plan.device)
    return task_of(plan).measuring(plan, images, split, normalize, processes)


def _finished(begun: TrialRecord, fitted: _Fitted, records: Records) -> TrialRecord:
    """The record of a trial that is over, its predictions put in place before it."""
    metric = begun.metric
    records.write_predictions(begun.subject.attention, begun.seed, fitted.predictions)
    return replace(
        begun,
        score=float(fitted.predictions.scores(metric).mean()),
        loss=fitted.loss,
        history=tuple(fitted.history),
        train_seconds=fitted.train_seconds,
        train_images_per_second=fitted.images / fitted.train_seconds,
        reported_epoch=fitted.reported_epoch,
        health=assess(fitted.history, fitted.predictions, metric),
    )


def build(
    plan: Plan, entry: Entry, classes: int, channels: int, *, pretrained: bool = True
) -> nn.Module:
    """The host with what is compared in its places.

    Args:
        plan: of the study.
        entry: what is put in.
        classes: of the images.
        channels: of the images.
        pretrained: whether a host of the user's own gets its weights; not where those of a
            trained one are loaded over them.
    """
    if own_host(plan.host) is not None:
        model = create_host(plan, classes, channels, pretrained).model
        model = put_in(model, plan, entry, model_channels(plan, channels))
    else:
        model = rebuild(architecture_of(plan, entry, channels), classes)
    return model.to(memory_format=torch.channels_last)  # pyrefly: ignore


def input_size(plan: Plan, channels: int) -> tuple[int, ...]:
    """(C, H, W) of what the models of a plan take, where images have ``channels``."""
    return (model_channels(plan, channels), *(plan.image_size or ()))


class Costs(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: as trained.
        multiply_adds: as deployed, for one image.
    """

    parameters: int
    multiply_adds: int


def costs(plan: Plan, model: nn.Module, channels: int) -> Costs:
    """Parameters as trained, and multiply-adds as deployed for one image of the plan's size."""
    parameters = sum(p.numel() for p in model.parameters())
    deployed = fuse(copy.deepcopy(model).eval())
    with torch.no_grad():
        x = torch.zeros(1, *input_size(plan, channels))
        flops = count_flops(task_of(plan).counted(deployed), x)
    return Costs(parameters, flops // 2)


def _as_trained(
    begun: TrialRecord, plan: Plan, entry: Entry, images: ImageSet, folder: Path
) -> TrialRecord:
    """The record with the costs of the model as it is after training, which may have pruned it."""
    model = build(plan, entry, len(images.classes), images.channels, pretrained=False)
    load_weights(model, folder / WEIGHTS)
    fold = folds(images, plan.folds, plan.image_size or (0, 0))[0].images
    exits = exits_of(model, measuring_batches(plan, fold.test, fold, model))
    known = costs(plan, model, images.channels)
    adds = known.multiply_adds if exits is None else exits.multiply_adds
    return replace(begun, parameters=known.parameters, multiply_adds=adds)


def subject_of(entry: Entry, plan: Plan) -> Subject:
    """What the files of a study say of an entry."""
    label = entry.label
    if own_host(plan.host) is not None:
        label = LABELS.get(label, label)
    if entry.name in CONTROLS:
        role = family = "control"
    else:
        spec = describe(entry.name)
        role, family = spec.role, spec.family
    return Subject(entry.key, entry.name, label, entry.control, role, family)


def _epoch(trained: TrainedEpoch, plan: Plan) -> EpochRecord:
    """An epoch as the study records it."""
    values = trained.values
    return EpochRecord(
        trained.epoch,
        values["train_loss"],
        values.get("loss"),
        values[plan.metric.name],
        trained.seconds,
    )


def read_images(root: Path, plan: Plan) -> ImageSet:
    """The prepared images of a run directory."""
    return KINDS[plan.task].load(root / "data")


def set_up(plan: Plan) -> None:
    """What every process of a study does first: its threads, and the user's own mechanisms."""
    torch.set_num_threads(plan.threads or 1)
    import_all(plan.imports)


def recipe_of(plan: Plan) -> Recipe:
    """What of a plan says how a model is trained."""
    shared = [name for name in Recipe.__dataclass_fields__ if hasattr(plan, name)]
    stated = {name: getattr(plan, name) for name in shared}
    return Recipe(**{**stated, "added_lr_scale": plan.added_lr_scale or 1.0})
