"""A model of the user's own as a study's host: built, given its weights, changed in its places.

The rows of such a study are the unchanged model (``"none"``), the model with a plain convolution
in the same places (``"depthwise_conv"``), made as costly as the costliest mechanism, and the model
with each mechanism. What is inserted starts as nothing, and what is replaced is handed over, so
that every trial of a seed begins as the unchanged model.
"""

from __future__ import annotations

import fnmatch
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from foveate._random import seed_all, undisturbed
from foveate.arguments import nearest
from foveate.data.images import ImageSet
from foveate.data.moments import Moments
from foveate.published import load_published, read_weights
from foveate.reduction import reduce
from foveate.registry import list_reducers
from foveate.saved.info import Architecture
from foveate.saved.rebuild import rebuild
from foveate.study.entry import Entry
from foveate.study.host import own_host
from foveate.study.plan import Plan
from foveate.study.tasks import task_of
from foveate.study.warm_start import TIMM, Started, input_of, of_timm, resampled, warm_start
from foveate.surgery.change import insert, replace
from foveate.surgery.plain_convolution import PlainConvolution
from foveate.surgery.recipe import changes
from foveate.surgery.trace import DEFAULT_SIZE
from foveate.tasks import ReducedClassification, Task

CONTROL, UNCHANGED = "depthwise_conv", "none"
LABELS = {CONTROL: "plain convolution", UNCHANGED: "unchanged model"}
"""What tables call the controls of such a host."""

_INSERTED, _REPLACED = ("branch", "stage"), ("attention", "gate", "conv", "depthwise")

RATIO = "ratio"
"""The option by which the control is made as costly as the costliest mechanism."""


# The model as it is


class Built(NamedTuple):
    """A host without anything in it.

    Attributes:
        model: with its weights, where the plan names any.
        said: what was left out, taken or resampled, a sentence each.
        whole: whether all its numbers are those of weights, so that it knows its classes.
    """

    model: nn.Module
    said: list[str]
    whole: bool = False


def create_host(plan: Plan, classes: int, channels: int, pretrained: bool = True) -> Built:
    """The unchanged model.

    Args:
        plan: of the study.
        classes: that it is to tell apart.
        channels: of the images.
        pretrained: whether to read the plan's weights; a trained model is loaded over them.

    Raises:
        ValueError: if the host cannot be found or built, or the weights do not fit.
    """
    model = _unchanged(plan, classes, channels)
    if plan.weights is None or not pretrained:
        return Built(model, [])
    own = own_host(plan.host)
    name = own.name if own is not None and own.kind == "timm" else ""
    if plan.task != "classification" and name:
        return Built(model, *warm_start(model, plan.weights, name))
    return Built(model, *_load(model, plan.weights, classes, name))


def model_channels(plan: Plan, channels: int) -> int:
    """Channels that the host takes where images have ``channels``: grey ones are given thrice,
    unless it starts from nothing or from a model of ours that took them as they are.
    """
    own = own_host(plan.host)
    if own is None or (own.kind == "timm" and plan.weights is None):
        return channels
    before = None if own.kind == "file" else input_of(plan.weights or TIMM)
    return 3 if before is None else max(channels, len(before.mean))


def normalization(plan: Plan, model: nn.Module, found: Moments, channels: int) -> Moments:
    """What images are normalised with: with weights what the model states, else ``found``.

    Args:
        plan: of the study.
        model: the host, whose ``pretrained_cfg`` states mean and deviation, as timm's do.
        found: those of the training images.
        channels: of the images.
    """
    stated = _stated(model) if plan.weights is not None else None
    if stated is not None:
        return stated
    times = model_channels(plan, channels) // channels
    return found._replace(mean=found.mean * times, std=found.std * times)


def _stated(model: nn.Module) -> Moments | None:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not (config.get("mean") and config.get("std")):
        return None
    return Moments(tuple(config["mean"]), tuple(config["std"]))


def architecture(plan: Plan, channels: int) -> Architecture:
    """How the unchanged model is built.

    Args:
        plan: of the study.
        channels: of the images.

    Raises:
        ValueError: if timm has no such model.
    """
    own = own_host(plan.host)
    if own is None:
        raise ValueError(f"host {plan.host} is none of the user's own")
    if own.kind == "file":
        there = Path(own.name).is_file()  # what there is not is refused when it is imported
        digest = _digest(own.name) if there else None
        return Architecture("own", str(own), plan.host_kwargs, digest=digest)
    if not timm.is_model(own.name):
        raise ValueError(f"timm has no model {own.name!r}{nearest(own.name, timm.list_models())}")
    config = timm.get_pretrained_cfg(own.name)
    size = plan.image_size or DEFAULT_SIZE[1:]
    options: dict[str, Any] = {}
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != size:
        options["img_size"] = size
    options |= {"in_chans": model_channels(plan, channels), **plan.host_kwargs}
    return task_of(plan).architecture(plan, own.name, options)


def _unchanged(plan: Plan, classes: int, channels: int) -> nn.Module:
    own = own_host(plan.host)
    built = architecture(plan, channels)
    if own is None or own.kind == "file":
        return rebuild(built, classes, code=plan.host)
    try:
        return rebuild(built, classes)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{own}: {error}") from error


def check_output(model: nn.Module, plan: Plan, classes: int, channels: int) -> None:
    """Refuse a host that does not give what its task takes, such as a logit a class.

    Raises:
        ValueError: if it does not run on images of the study's size, or gives something else.
    """
    x = torch.zeros(2, channels, *(plan.image_size or ()))
    where = f"{plan.host} with images of {'x'.join(map(str, x.shape[1:]))}"
    try:
        with torch.inference_mode():
            given = model.eval()(x)
    except Exception as error:
        raise ValueError(f"{where} raises {type(error).__name__}: {error}") from error
    wrong = task_of(plan).wrong_output(plan, classes, given)
    if wrong is not None:
        raise ValueError(f"{where} {wrong}")


# Its weights


def _load(model: nn.Module, path: str, classes: int, name: str) -> Started:
    """Fill ``model``, but for a classifier of another number of classes."""
    of_name = path == TIMM and bool(name)
    if not of_name and not Path(path).is_file():
        raise ValueError(f"weights: there is no file {path!r}")
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = of_timm(name) if of_name else resampled(model, read_weights(model, path), said)
        head, theirs = _other_classifier(model, state, classes)
        own = model.state_dict()
        try:
            load_published(model, {**state, **{key: own[key] for key in head}})
        except (TypeError, ValueError) as error:
            raise ValueError(f"weights {path}: {error}") from error
    said += [str(warning.message) for warning in caught if warning.category is UserWarning]
    if head:
        what = f"of {theirs} classes" if theirs else "is not in the file and"
        said.append(f"the classifier ({', '.join(head)}) {what} "
                    f"{'is left out and ' * bool(theirs)}starts fresh for {classes}")  # fmt: skip
    return Started([f"weights: {sentence}" for sentence in said], not head)


def _other_classifier(
    model: nn.Module, state: Mapping[str, Tensor], classes: int
) -> tuple[list[str], int]:
    """The entries of a classifier of another number of classes, and that number; 0 if it has none.

    An entry is one if it differs in its first axis alone, which has ``classes`` in the model.
    """
    own = model.state_dict()
    other = [
        key for key, mine in own.items()
        if key in state and mine.dim() and state[key].dim() == mine.dim()
        and len(mine) == classes != len(state[key]) and mine.shape[1:] == state[key].shape[1:]
    ]  # fmt: skip
    if other:
        return other, len(state[other[0]])
    config = getattr(model, "pretrained_cfg", None)
    names = config.get("classifier") if isinstance(config, Mapping) else None
    parts = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names or ()))
    missing = [key for key in own if key not in state]
    absent = bool(missing and parts) and all(key.startswith(parts) for key in missing)
    return (missing, 0) if absent else ([], 0)


# What is put into it


def put_in(model: nn.Module, plan: Plan, entry: Entry, channels: int) -> nn.Module:
    """Put what ``entry`` names into the places of ``model`` that the plan chooses, or reduce it.

    Args:
        model: the host, changed in place.
        plan: of the study.
        entry: of it.
        channels: of the images that the model takes.

    Returns:
        ``model``, or what a reducer makes of it.

    Raises:
        ValueError: if no place matches, the entry cannot stand there, or the host cannot be
            reduced.
    """
    if entry.name == UNCHANGED:
        for option in entry.kwargs:
            raise ValueError(f"{UNCHANGED} has no option {option!r}")
        return model
    if is_reducer(entry):
        return _reduced(model, entry)
    mechanism = PlainConvolution if entry.name == CONTROL else entry.name
    options = {**entry.kwargs, **entry.host}
    where = plan.where[0] if len(plan.where) == 1 else list(plan.where)
    example = torch.zeros(2, channels, *(plan.image_size or ()))
    gently = plan.start == "identity"
    seed = int(torch.randint(2**62, (), device="cpu"))
    with undisturbed():  # what is drawn after it is the same whatever is put in
        seed_all(seed)
        try:
            if plan.at in _INSERTED:
                start = "identity" if gently else "naive"
                insert(model, mechanism, plan.at, where, start, example=example, **options)
            else:
                start = "handover" if gently else "swap"
                replace(model, plan.at, mechanism, where, start=start, example=example, **options)
        except ValueError as error:
            known = (*_INSERTED, *_REPLACED)
            hint = (
                "" if plan.at in known else f"; at may be a glob of modules or {', '.join(known)}"
            )
            raise ValueError(f"at {plan.at}: {error}{hint}") from error
    for glob in plan.where:
        _check_glob(model, glob)
    return model


def learnt(plan: Plan, entry: Entry, images: ImageSet) -> Task:
    """What a trial learns: of a reducer also what it asks for, and from the host where that can
    teach it, its weights being whole.
    """
    task = task_of(plan).training(plan, images)
    if not is_reducer(entry):
        return task
    with undisturbed():
        host = create_host(plan, len(images.classes), images.channels)
    return ReducedClassification(task, teacher=host.model if host.whole else None)


def is_reducer(entry: Entry) -> bool:
    """Whether ``entry`` makes the host cheaper, in place of putting something into it."""
    return entry.name in list_reducers()


def _reduced(model: nn.Module, entry: Entry) -> nn.Module:
    """What the reducer makes of ``model``; what it adds is drawn beside what is drawn after it."""
    seed = int(torch.randint(2**62, (), device="cpu"))
    with undisturbed():
        seed_all(seed)
        return reduce(model, entry.name, **entry.kwargs)


def _check_glob(model: nn.Module, glob: str) -> None:
    """Of several globs, each must choose a place."""
    steps = changes(model).steps
    paths = {name for step in steps for name in step.paths}
    paths |= {change.path for step in steps for change in step.changes}
    if not any(fnmatch.fnmatchcase(path, glob) for path in paths):
        raise ValueError(f"no place matches {glob!r}{nearest(glob, paths)}")


def table_of(model: nn.Module) -> list[dict[str, str]]:
    """What was done, a row for places alike; the control by its name."""
    rows = changes(model).table()
    for row in rows:
        if row["now"].endswith(f":{PlainConvolution.__name__}"):
            row["now"] = LABELS[CONTROL]
    return rows


def digests(plan: Plan) -> dict[str, str]:
    """SHA-256 of the files that the host comes from, by their paths."""
    own = own_host(plan.host)
    files = [plan.weights, own.name if own is not None and own.kind == "file" else None]
    return {file: _digest(file) for file in files if file}


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
