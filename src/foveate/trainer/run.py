"""One training with one call; ``foveate train`` does the same from a terminal.

    config.yaml            what ran, every default filled in
    data/                  which images were learnt from and held out, and which were unreadable
    last.ckpt              everything that the next epoch needs; until the training is over
    model.safetensors      the model that is reported, for foveate.load and foveate predict
    best.safetensors       that of the epoch that was best on the held-out images
    training.json          what it came to
    logs/, samples/        loggers; predictions of some held-out images

Files are written beside and put in place, so a reader sees them whole or not at all.
"""

from __future__ import annotations

import copy
import errno
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate._files import write_text
from foveate._random import seed_all, undisturbed
from foveate.arguments import nearest
from foveate.data.images import ImageSet, drop_pixels
from foveate.reduction import reduce, reducer_of
from foveate.saved.info import Architecture
from foveate.saved.rebuild import rebuild
from foveate.study.entry import Entry, PlanError
from foveate.study.host import own_host
from foveate.study.kinds import KINDS
from foveate.study.mirror import is_address, mirrored
from foveate.study.model_info import info_of
from foveate.study.numbers import show_value
from foveate.study.own_host import (
    Built,
    architecture,
    create_host,
    is_reducer,
    model_channels,
    put_in,
)
from foveate.study.parts import with_selection
from foveate.study.plan import Plan, read_file
from foveate.study.run import DiskFullError, alone_in
from foveate.study.tasks import task_of
from foveate.study.trial import build, learning_batches, measuring_batches, recipe_of, set_up
from foveate.study.warm_start import warm_start
from foveate.surgery.recipe import freeze_norms
from foveate.tasks import ReducedClassification
from foveate.trainer import processes
from foveate.trainer.config import (
    CONFIG,
    EFFECTLESS,
    TrainConfig,
    complete,
    difference,
    load_config,
    read_config,
    takes_attention,
)
from foveate.trainer.progress import Shown
from foveate.trainer.recipes import list_recipes, recipe_file
from foveate.trainer.record import TrainingRecord
from foveate.trainer.runs import EPOCHS, note_epoch
from foveate.trainer.samples import SAMPLES, write_samples
from foveate.training import (
    BEFORE,
    CHECKPOINT,
    WEIGHTS,
    Distribution,
    EpochRecord,
    Progress,
    Recipe,
    train_in_stages,
)
from foveate.training.history import Report, best_epoch
from foveate.training.task import Task


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """What a training came to; its representation says it in a few lines.

    Attributes:
        root: the run directory, or its address.
        config: what ran.
        record: what it came to.
    """

    root: Path | str
    config: TrainConfig
    record: TrainingRecord

    @property
    def path(self) -> Path | str:
        """The file of the model, for :func:`foveate.load`; at an address it is to be fetched."""
        return f"{self.root}/{WEIGHTS}" if isinstance(self.root, str) else self.root / WEIGHTS

    @property
    def sentences(self) -> list[str]:
        """The result in words."""
        metric, record = self.config.plan.metric, self.record
        found = show_value(record.metrics[metric.name], metric)
        chosen = "the last" if self.config.plan.select == "last" else "the best on images apart"
        said = [
            f"{self.config.model}: {metric.words} {found} on the held-out images after epoch "
            f"{record.reported_epoch} of {self.config.plan.epochs}, {chosen}; "
            f"{record.parameters / 1e6:.2f} M parameters, {record.images_per_second:.0f} images "
            f"a second",
        ]
        if record.best_epoch is not None and record.best_epoch != record.reported_epoch:
            best = record.history[record.best_epoch - 1][metric.name]
            said.append(
                f"best.safetensors is of epoch {record.best_epoch}, {show_value(best, metric)}: "
                "chosen on the held-out images, so its figure flatters it"
            )
        if self.config.samples and self.config.strategy == "ddp":
            said.append(f"predictions of held-out images: {self.root}/{SAMPLES}/index.html")
        elif self.config.samples:
            said.append(f"no {SAMPLES}: with {self.config.strategy} the model lies in parts")
        return [*said, f"model: {self.path}"]

    def __repr__(self) -> str:
        return "\n".join(self.sentences)


def train(
    config: TrainConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    **settings: Any,
) -> TrainedModel:
    """Train a model, and leave it in a file that :func:`foveate.load` builds it again from.

    Progress is printed; a training that was cut off goes on, in the numbers that it would have had,
    by ``resume`` or by the same call with the same ``out``.

    ::

        trained = foveate.train(model="slide_swin_tiny", data="photos", image_size=224, epochs=30)
        model, info = foveate.load(trained.path)

    With several devices each runs the same command: under ``torchrun``, or by ``devices=8``, from a
    script whose call stands under ``if __name__ == "__main__"``.

    Args:
        config: where the settings start from: a mapping, a YAML or JSON file such as the
            ``config.yaml`` of another run, or the name of a published recipe; None for the
            defaults.
        out: the run directory, or an address that fsspec knows, such as ``s3://bucket/run``
            (:mod:`foveate.study.mirror`); a dated one under ``runs/`` where None.
        resume: the run directory of a training that is to go on, in place of all other arguments
            but those that say where it runs, such as ``devices``.
        **settings: fields of :class:`foveate.trainer.config.TrainConfig` and of its plan by name,
            which take precedence over ``config``; ``foveate train --help`` says what each is.

    Raises:
        PlanError: if a setting is unknown (with the nearest) or does not fit.
        ValueError: if the directory is something else's, data or weights cannot be used, or a
            checkpoint is damaged.
        DivergenceError: if the loss is not finite.
        ProcessLostError: if another process of the training ended.
    """
    place = out if resume is None else resume
    if place is None or not is_address(place):
        return _train(config, out, resume, settings, None)
    if processes.started_by_torchrun():
        raise PlanError(f"with torchrun give a directory that all machines share, not {place}")
    with mirrored(place) as local:
        here = (local, None) if resume is None else (None, local)
        trained = _train(config, *here, settings, os.fspath(place))
        return replace(trained, root=os.fspath(place))


def _train(
    config: TrainConfig | Mapping[str, Any] | str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    settings: Mapping[str, Any],
    address: str | None,
) -> TrainedModel:
    """See :func:`train`; ``address`` is what the user calls the run directory."""
    root, whole = _run_directory(config, out, resume, settings)
    if not processes.is_first():
        processes.await_first(root)
        return _trained(root, whole, Shown(whole.plan.epochs, whole.plan.metric))
    new = _begin(root, whole)
    with alone_in(root):
        try:
            with Shown(whole.plan.epochs, whole.plan.metric) as show:
                show.say(f"run directory: {address or root}")
                return _trained(root, whole, show)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the one into the other
            again = address or root
            print(f"stopped; go on with: foveate train --resume {again}", file=sys.stderr)
            raise KeyboardInterrupt from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(address or root, error.filename or "a file", "train") from error
        except ValueError:
            if new and not (root / CHECKPOINT).exists():  # refused before anything was learnt
                shutil.rmtree(root, ignore_errors=True)
            raise


def _trained(root: Path, config: TrainConfig, show: Shown) -> TrainedModel:
    """What the training in ``root`` came to, trained as far as that is not done."""
    done = TrainingRecord.read(root)
    if done is not None:
        if processes.is_first():
            show.say("this training is over")
            processes.announce(root)
        return TrainedModel(root, config, done)
    plan = config.plan
    set_up(plan)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # what it hints at is ours
    images = _images(root, plan, show)
    part = None
    if plan.select == "best":
        images, part = with_selection(images)
    seed_all(config.seed)
    model, said, whole = _model(config, images)
    task: Task = task_of(plan).training(plan, images)
    if config.reduce is not None:
        model, task = _reduced(config, config.reduce, model, task, said, whole)
    reducer, apart = reducer_of(model), None
    if reducer is not None and reducer.settles:
        images, rest = with_selection(images)
        apart = measuring_batches(plan, rest, images, model)
    entry = plan.entries[0]
    if processes.is_first():
        for sentence in said:
            show.say(sentence)
        show.say(_about(config, images, model))
        processes.hand_down(root)
        processes.announce(root)
    info = info_of(plan, entry, images, model)
    built = _published_head(config, images.channels)
    if built is not None:
        info = replace(info, architecture=replace(built, imports=plan.imports))
    result = train_in_stages(
        model,
        task,
        learning_batches(plan, model, images, config.seed),
        measuring_batches(plan, images.test, images, model),
        _recipe(config),
        root,
        _told(root, show) if processes.is_first() else lambda event: None,
        None if part is None else measuring_batches(plan, part, images, model),
        info=info,
        distribution=Distribution(config.devices, config.nodes, config.strategy, config.timeout),
        logger=config.logger,
        apart=apart,
        keep_best=True,
    )
    last = result.history[result.first_epoch :]
    record = TrainingRecord(
        result.reported_epoch,
        result.values,
        best_epoch(last, plan.metric) if part is None else None,
        sum(parameter.numel() for parameter in model.parameters()),
        result.train_seconds,
        result.images_per_second,
        tuple(epoch.to_dict() for epoch in result.history),
        tuple(said),
    )
    if processes.is_first():
        if config.samples and config.strategy == "ddp":
            write_samples(root, model, info, images, config.samples, plan.device)
        record.write(root)
        (root / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(root / BEFORE, ignore_errors=True)
        (root / EPOCHS).unlink(missing_ok=True)
        drop_pixels(root / "data")
    return TrainedModel(root, config, record)


def _told(root: Path, show: Shown) -> Report:
    """Show where a training is, and note the epochs that are over."""

    def report(event: Progress | EpochRecord) -> None:
        show(event)
        if isinstance(event, EpochRecord):
            note_epoch(root, event.epoch)

    return report


def _images(root: Path, plan: Plan, show: Shown) -> ImageSet:
    """The prepared images; the first process prepares them, and says what was found."""
    if not processes.is_first():
        return KINDS[plan.task].load(root / "data")
    images = KINDS[plan.task].prepare(root / "data", plan, show.images)
    show.images_done()
    for line in images.findings.lines():
        show.say(line)
    return images


def _model(config: TrainConfig, images: ImageSet) -> Built:
    """The model with its weights and what is put into it, and what to say of it."""
    plan, classes, channels = config.plan, len(images.classes), images.channels
    entry, own = plan.entries[0], own_host(plan.host)
    if is_reducer(entry):
        raise PlanError(f"{entry.name} is a reducer: give it as reduce (--reduce {entry.label})")
    if own is None:
        small = "the head is small, as the model is, unless --head-kwargs says otherwise"
        said = [small] * (plan.task != "classification")
        return Built(build(plan, entry, classes, channels), said)
    built = _published_head(config, channels)
    model = (
        create_host(plan, classes, channels, pretrained=False).model
        if built is None
        else rebuild(built, classes)
    )
    said, whole = [], False
    if plan.weights is not None:
        said, whole = warm_start(model, plan.weights, own.name)
    model = put_in(model, plan, entry, model_channels(plan, channels))
    if plan.freeze == "norms":
        freeze_norms(model)
        said.append("batch norms keep their statistics and weights (freeze: norms)")
    return Built(model.to(memory_format=torch.channels_last), said, whole)  # pyrefly: ignore


def _reduced(
    config: TrainConfig, reducer: Entry, model: nn.Module, task: Any, said: list[str], whole: bool
) -> tuple[nn.Module, Task]:
    """The model put through a reducer, and what it is to learn; adds what is to be said."""
    teaches = whole if config.distill is None else config.distill > 0
    weight = 0.5 if config.distill is None else config.distill
    if teaches and not whole:
        said.append("distill: the model that teaches does not know these classes, or nothing yet")
    teacher = copy.deepcopy(model) if teaches else None
    with undisturbed():
        seed_all(config.seed)
        model = reduce(model, reducer.name, **reducer.kwargs)
    taught = f"; the model that it was teaches it, with weight {weight:g}" if teaches else ""
    said.append(f"reduced by {reducer.label}{taught}")
    made = reducer_of(model)
    if made is not None and made.afterwards:
        said.append(f"it is not cheaper yet; once it is trained: {made.afterwards}")
    elif made is not None and made.steps:
        said.append(f"{reducer.name}: {made.steps}")
    return model, ReducedClassification(task, teacher=teacher, distill_weight=weight)


def _published_head(config: TrainConfig, channels: int) -> Architecture | None:
    """A head of its published size on a model of timm's; a study's are small as its hosts are."""
    own = own_host(config.plan.host)
    if own is None or own.kind != "timm" or config.plan.task == "classification":
        return None
    if takes_attention(own.name):
        return None
    built = architecture(config.plan, channels)
    return replace(built, head_options=config.plan.head_kwargs, plain=False)


def _about(config: TrainConfig, images: ImageSet, model: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    height, width = config.plan.image_size or (0, 0)
    batch = config.plan.batch_size
    update = f", {config.accumulate} of them an update" if config.accumulate > 1 else ""
    return (
        f"{config.model}: {count / 1e6:.2f} M parameters, {len(images.classes)} classes, "
        f"{len(images.train):,} images to learn from and {len(images.test):,} held out, of "
        f"{height}x{width}; batches of {batch}{update}; learning rate {config.plan.lr:g}"
    )


def _recipe(config: TrainConfig) -> Recipe:
    """How the engine trains."""
    return replace(
        recipe_of(config.plan),
        accumulate=config.accumulate,
        layer_decay=config.layer_decay,
        ema_decay=config.ema,
        sync_batch_norm=config.sync_batch_norm,
        optimizer_kwargs=config.optimizer_kwargs,
        schedule_kwargs=config.schedule_kwargs,
    )


# The run directory


def _run_directory(
    config: TrainConfig | Mapping[str, Any] | str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    settings: Mapping[str, Any],
) -> tuple[Path, TrainConfig]:
    if resume is not None:
        others = [*(name for name in settings if name not in EFFECTLESS)]
        others += ["config"] * (config is not None) + ["out"] * (out is not None)
        if others:
            raise PlanError(
                f"resume goes on with the configuration of the run; leave out {others[0]!r}, or "
                f"start anew from that: --config {Path(resume) / CONFIG}"
            )
        there = _config_of(Path(resume)).to_dict()
        return Path(resume), complete(read_config({**there, **settings}, "the settings"))
    whole = complete(_read(config, settings))
    root = processes.inherited()
    if root is None:
        if out is None and processes.started_by_torchrun():
            raise PlanError("with torchrun every process needs the same run directory: give --out")
        root = Path(out or dated())
    return root, whole


def dated() -> str:
    """A run directory by the time of day."""
    return f"runs/{datetime.now():%Y-%m-%d-%H%M%S}"


def number_of_devices(
    config: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    settings: Mapping[str, Any],
) -> int:
    """Processes that are to be started for a training on this machine alone; 1 in each of them.

    Args:
        config: as for :func:`train`.
        resume: likewise.
        settings: likewise.

    Raises:
        PlanError: if a setting does not fit.
    """
    started = processes.started_by_torchrun() or "LOCAL_RANK" in os.environ
    if started or (resume is not None and is_address(resume)):
        return 1
    whole = _read(config, settings) if resume is None else _config_of(Path(resume))
    if resume is not None:
        whole = read_config({**whole.to_dict(), **settings}, "the settings")
    return 1 if (whole.nodes or 1) > 1 else whole.devices or 1


def _begin(root: Path, whole: TrainConfig) -> bool:
    """Put the configuration into the directory; returns whether it is new.

    Raises:
        PlanError: if the directory is something else's, or another training's.
    """
    processes.withdraw(root)
    there = [path.name for path in root.iterdir()] if root.exists() else []
    if CONFIG not in there:
        if [name for name in there if not name.startswith((".lock", f".{CONFIG}"))]:
            raise PlanError(
                f"{root} is there already and is no training's directory; choose another --out"
            )
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / CONFIG, whole.to_yaml())
        return True
    unlike = difference(_config_of(root), whole)
    if unlike:
        raise PlanError(
            f"{root} belongs to another training ({unlike}); choose another --out, or go on with "
            f"its own: foveate train --resume {root}"
        )
    return False


def _config_of(root: Path) -> TrainConfig:
    if not (root / CONFIG).exists():
        raise PlanError(f"{root} is no training's directory: it holds no {CONFIG}")
    return complete(load_config(root / CONFIG))


def _read(
    config: TrainConfig | Mapping[str, Any] | str | PathLike[str] | None,
    settings: Mapping[str, Any],
) -> TrainConfig:
    if isinstance(config, (str, PathLike)):
        return _of_file(Path(config), settings)
    base = config.to_dict() if isinstance(config, TrainConfig) else config or {}
    return read_config({**base, **settings}, "the settings")


def _of_file(path: Path, settings: Mapping[str, Any]) -> TrainConfig:
    """A file's settings, or a published recipe's, which needs data."""
    recipe = None if path.exists() else recipe_file(str(path))
    if recipe is None and not path.suffix:
        known = nearest(str(path), list_recipes())
        raise PlanError(f"config {str(path)!r} is no file and no published recipe{known}")
    values = {**read_file(recipe or path, "configuration"), **settings}
    if recipe is not None and "data" not in values:
        raise PlanError(f"{path} says how to train and not on what: give data (--data)")
    return read_config(values, str(path))
