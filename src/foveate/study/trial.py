"""What happens in the processes of a study: looking at a plan, and a trial."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import timm
import torch
from torch import nn

import foveate.models  # noqa: F401  registers the hosts with timm
from foveate._random import seed_all
from foveate.analysis.flops import count_flops
from foveate.arguments import nearest, one_of
from foveate.data.batches import Augment, held_out_batches, train_batches
from foveate.data.images import ImageSet, load, loader_processes
from foveate.models import CONTROLS, list_for_place
from foveate.registry import describe, list_attention
from foveate.study.entry import Entry
from foveate.study.lock import lock
from foveate.study.plan import Plan
from foveate.study.records import (
    BatchDone,
    EpochRecord,
    Records,
    Subject,
    TrialRecord,
)
from foveate.surgery.fuse import fuse
from foveate.tasks import Classification
from foveate.training import (
    CHECKPOINT,
    Progress,
    Recipe,
    check_recipe,
    train,
)
from foveate.training import EpochRecord as TrainedEpoch

Tell = Callable[[Any], None]
_HOSTS = "pyramid_*"


def probe(plan: Plan, classes: int, channels: int, tell: Tell) -> dict[str, Subject]:
    """Build every model of a plan and run one image through it, before anything is trained.

    Returns:
        For each key what the files of the study say of it.

    Raises:
        ValueError: if the host, a mechanism or an option is refused.
    """
    _import_all(plan.imports)
    _check_names(plan)
    check_recipe(_recipe(plan))
    one_of(plan.augment, get_args(Augment), "augment")
    known = {}
    for entry in plan.entries:
        tell(entry.label)
        try:
            model = build(plan, entry, classes, channels)
            with torch.inference_mode():
                model.eval()(torch.zeros(1, channels, *plan.image_size))
        except (ValueError, TypeError) as error:
            size = "x".join(map(str, plan.image_size or ()))
            raise ValueError(f"{entry.label} in {plan.host} at {size}: {error}") from error
        except Exception:
            continue
        known[entry.key] = subject_of(entry)
    return known


def run_trial(root: Path, plan: Plan, entry: Entry, seed: int, tell: Tell) -> TrialRecord:
    """Train one model and leave its record in the run directory."""
    records = Records(root)
    folder = records.trial_folder(entry.key, seed)
    with lock(folder / ".lock", 30.0) as ours:
        if not ours:
            raise RuntimeError(f"another process is at work in {folder}")
        set_up(plan)
        images = load(root / "data")
        seed_all(seed)
        model = build(plan, entry, len(images.classes), images.channels)
        known = costs(model, (images.channels, *(plan.image_size or ())))

        history: list[EpochRecord] = []
        if (folder / CHECKPOINT).exists():
            history = records.history(entry.key, seed)

        def on_event(event: Progress | TrainedEpoch) -> None:
            if isinstance(event, Progress):
                tell(BatchDone(*event))
                return
            epoch = _epoch(event, plan)
            history[epoch.epoch - 1 :] = [epoch]
            records.write_history(entry.key, seed, history)
            tell(epoch)

        task = Classification(
            len(images.classes), label_smoothing=plan.label_smoothing, mixup=plan.mixup
        )
        learning, measuring = _batches(plan, images, seed)
        outcome = train(model, task, learning, measuring, _recipe(plan), folder, on_event)
        history = [_epoch(epoch, plan) for epoch in outcome.history]
        record = TrialRecord(
            subject=subject_of(entry),
            seed=seed,
            host=plan.host,
            epochs=plan.epochs,
            metric=plan.metric,
            score=history[-1].score,
            loss=history[-1].loss,
            history=tuple(history),
            parameters=known.parameters,
            multiply_adds=known.multiply_adds,
            train_seconds=outcome.train_seconds,
            train_images_per_second=outcome.images_per_second,
        )
        records.write_history(entry.key, seed, history)
        records.write_trial(record)
        return record


def build(plan: Plan, entry: Entry, classes: int, channels: int) -> nn.Module:
    """The host with what is compared in its blocks."""
    model = timm.create_model(
        plan.host,
        num_classes=classes,
        in_chans=channels,
        attention=entry.name,
        attention_kwargs=entry.kwargs,
        **plan.host_kwargs,
    )
    return model.to(memory_format=torch.channels_last)  # pyrefly: ignore


class Costs(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: as trained.
        multiply_adds: as deployed, for one image.
    """

    parameters: int
    multiply_adds: int


def costs(model: nn.Module, size: tuple[int, ...]) -> Costs:
    """Parameters as trained, and multiply-adds as deployed for one image of ``size`` (C, H, W)."""
    parameters = sum(p.numel() for p in model.parameters())
    deployed = fuse(copy.deepcopy(model).eval())
    with torch.no_grad():
        flops = count_flops(deployed, torch.zeros(1, *size))
    return Costs(parameters, flops // 2)


def subject_of(entry: Entry) -> Subject:
    """What the files of a study say of an entry."""
    if entry.name in CONTROLS:
        role = family = "control"
    else:
        spec = describe(entry.name)
        role, family = spec.role, spec.family
    return Subject(entry.key, entry.name, entry.label, entry.control, role, family)


def _epoch(trained: TrainedEpoch, plan: Plan) -> EpochRecord:
    """An epoch as the study records it."""
    values = trained.values
    return EpochRecord(
        trained.epoch,
        values["train_loss"],
        values["loss"],
        values[plan.metric.name],
        trained.seconds,
    )


def _check_names(plan: Plan) -> None:
    for entry in plan.entries:
        if entry.name in list_attention() and entry.name not in list_for_place():
            role = describe(entry.name).role
            raise ValueError(f"{entry.name} is an {role}; it cannot stand in a backbone")
        if entry.name not in list_for_place():
            raise ValueError(
                f"unknown attention {entry.name!r}{nearest(entry.name, list_for_place())}"
            )
    if not timm.is_model(plan.host):
        raise ValueError(
            f"unknown host {plan.host!r}{nearest(plan.host, timm.list_models(_HOSTS))}"
        )
    try:
        with torch.device("meta"):
            timm.create_model(plan.host, attention="none", attention_kwargs={}, num_classes=2)
    except TypeError as error:
        hosts = ", ".join(timm.list_models(_HOSTS))
        raise ValueError(
            f"host {plan.host} has no place for an attention by name; hosts that have: {hosts}"
        ) from error


def set_up(plan: Plan) -> None:
    """What every process of a study does first: its threads, and the user's own mechanisms."""
    torch.set_num_threads(plan.threads or 1)
    _import_all(plan.imports)


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        path = Path(name)
        if path.suffix != ".py":
            sys.path.insert(0, "")
            importlib.import_module(name)
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise ValueError(f"imports names {name!r}, which cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)


def _batches(plan: Plan, images: ImageSet, seed: int) -> tuple[Any, Any]:
    size = plan.image_size or (0, 0)
    learning = train_batches(
        images,
        size,
        plan.batch_size,
        seed,
        augment=plan.augment,
        augment_kwargs=plan.augment_kwargs,
        processes=loader_processes(images.train, plan.device),
    )
    measuring = held_out_batches(
        images, size, 256, processes=0 if images.test.in_memory else learning.processes
    )
    return learning, measuring


def _recipe(plan: Plan) -> Recipe:
    shared = [name for name in Recipe.__dataclass_fields__ if hasattr(plan, name)]
    return Recipe(**{name: getattr(plan, name) for name in shared})
