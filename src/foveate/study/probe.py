"""Looking at a plan before images are read or anything is trained: all that it names is there.

What is at fault is found in a second, and said in the words of the plan.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from foveate._user_code import import_all
from foveate.arguments import nearest, one_of
from foveate.data.moments import Moments
from foveate.models import CONTROLS, list_for_place
from foveate.models.pyramid import STARTS
from foveate.reduction import reducer_of
from foveate.registry import describe, list_attention
from foveate.study.entry import Entry
from foveate.study.host import FORMS, own_host
from foveate.study.own_host import (
    check_output,
    create_host,
    digests,
    is_reducer,
    model_channels,
    normalization,
    table_of,
)
from foveate.study.plan import Plan
from foveate.study.records import HostRecord, Subject
from foveate.study.tasks import task_of
from foveate.study.trial import build, input_size, recipe_of, subject_of
from foveate.training import check_recipe, epochs_before

_HOSTS = "pyramid_*"
_OF_THE_STUDY = ("attention", "attention_kwargs", "num_classes", "in_chans")
_CLASSES, _CHANNELS = 2, 3


def probe(plan: Plan, tell: Callable[[Any], None]) -> dict[str, Subject]:
    """Build every model of a plan and run one image through it.

    Of a host of the user's own only itself is built: :func:`look_at_host` does the rest, when the
    images are known.

    Args:
        plan: of the study.
        tell: gets the label of each model before it is built.

    Returns:
        For each key what the files of the study say of it.

    Raises:
        ValueError: if an import, the host, a mechanism, an option or another setting is refused.
    """
    import_all(plan.imports)
    _check_names(plan)
    check_recipe(recipe_of(plan))
    task_of(plan).check(plan)
    one_of(plan.start, STARTS, "start")
    if own_host(plan.host) is not None:
        create_host(plan, _CLASSES, _CHANNELS)
        return {}
    _check_host_options(plan)
    return dict(_look_at_entries(plan, _CLASSES, _CHANNELS, tell))


class FoundHost(NamedTuple):
    """What building a host of the user's own tells.

    Attributes:
        subjects: for each key what the files of the study say of it.
        host: what is to be known of the host.
    """

    subjects: dict[str, Subject]
    host: HostRecord


def look_at_host(
    plan: Plan, classes: int, channels: int, moments: Moments, tell: Callable[[Any], None]
) -> FoundHost:
    """Build a host of the user's own, and with each mechanism in its places, for the images read.

    Args:
        plan: of the study.
        classes: of the images.
        channels: of the images.
        moments: of the training images.
        tell: gets the label of each model before it is built.

    Raises:
        ValueError: if the host, or a mechanism in its places, is refused.
    """
    import_all(plan.imports)
    built = create_host(plan, classes, channels)
    check_output(built.model, plan, classes, model_channels(plan, channels))
    normal = normalization(plan, built.model, moments, channels)
    said = [*built.said]
    if plan.weights is not None:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in normal[:2])
        said.append(
            f"images are normalized by the mean ({mean}) and deviation ({std}) that the host states"
            if not normal.images
            else "images are normalized by their own mean and deviation: the host states none "
            "(pretrained_cfg)"
        )
    if model_channels(plan, channels) != channels:
        said.append("grey images are given to the host as three equal channels")
    host = HostRecord(plan.host, said, digests(plan), normal, {})

    def note(entry: Entry, model: nn.Module) -> None:
        host.changes[entry.key] = table_of(model)
        reducer = reducer_of(model)
        if reducer is not None and reducer.steps:
            said.append(f"{entry.label}: {reducer.steps}")
        if reducer is not None and reducer.settles:
            said.append(
                f"{entry.label}: its multiply-adds are the mean over the held-out images, and it "
                "is timed in PyTorch on some of them that leave as all do, where others get noise"
            )

    return FoundHost(dict(_look_at_entries(plan, classes, channels, tell, note)), host)


def _look_at_entries(
    plan: Plan,
    classes: int,
    channels: int,
    tell: Callable[[Any], None],
    note: Callable[[Entry, nn.Module], None] = lambda entry, model: None,
) -> Iterator[tuple[str, Subject]]:
    """Run an image through every model of a plan."""
    size = input_size(plan, channels)
    for entry in plan.entries:
        tell(entry.label)
        try:
            model = build(plan, entry, classes, channels)
            note(entry, model)
            _check_training(plan, model)
            with torch.inference_mode():
                model.eval()(torch.zeros(1, *size))
        except (ValueError, TypeError) as error:
            where = "x".join(map(str, size[1:]))
            raise ValueError(f"{entry.label} in {plan.host} at {where}: {error}") from error
        except Exception:  # its trials will tell
            continue
        yield entry.key, subject_of(entry, plan)


def _check_training(plan: Plan, model: nn.Module) -> None:
    """Refuse a reducer that a study's training does not make cheaper."""
    reducer = reducer_of(model)
    if reducer is None:
        return
    if reducer.afterwards:
        raise ValueError(f"it is not cheaper yet when it has been trained: {reducer.afterwards}")
    if reducer.prunes_after is not None:
        epochs_before(plan.epochs, reducer.prunes_after)


def _unknown(entry: Entry) -> str:
    """A sentence for a name that stands for nothing."""
    name, known = entry.name, list_for_place()
    key = "control" if entry.control else "attention"
    if "=" in name:
        return f"{key} {name!r} is an option: write it as NAME:{name}"
    if "," in name and name.split(",")[0] in known:
        return f"unknown {key} {name!r}: separate names by spaces"
    return f"unknown {key} {name!r}{nearest(name, CONTROLS if entry.control else known)}"


def _check_names(plan: Plan) -> None:
    for entry in plan.entries:
        if is_reducer(entry):
            _check_reduced(plan, entry)
            continue
        if entry.name in list_attention() and entry.name not in list_for_place():
            role = describe(entry.name).role
            raise ValueError(f"{entry.name} is an {role}; it cannot stand in a backbone")
        if entry.name not in list_for_place():
            raise ValueError(_unknown(entry))
    if own_host(plan.host) is not None:
        return
    if not timm.is_model(plan.host):
        raise ValueError(
            f"unknown host {plan.host!r}{nearest(plan.host, timm.list_models(_HOSTS))}"
        )
    try:
        _bare_host(plan.host)
    except TypeError as error:
        hosts = ", ".join(timm.list_models(_HOSTS))
        raise ValueError(
            f"host {plan.host} has no place for an attention by name (options attention, "
            f"attention_kwargs and start); hosts that have: {hosts}; to put mechanisms into the "
            f"places of any model, name it as {FORMS}"
        ) from error


def _check_reduced(plan: Plan, entry: Entry) -> None:
    """A reducer needs a vision transformer, which no host with a place by name is."""
    if own_host(plan.host) is None:
        raise ValueError(
            f"{entry.name} reduces a vision transformer, and host is {plan.host}: name one, as "
            f"timm/deit_tiny_patch16_224 is ({FORMS})"
        )
    if plan.task != "classification":
        raise ValueError(
            f"{entry.name} leaves fewer tokens than a map has cells, and {plan.task} needs maps"
        )


def _check_host_options(plan: Plan) -> None:
    for option in plan.host_kwargs:
        if option in _OF_THE_STUDY:
            raise ValueError(f"host_kwargs cannot set {option!r}: the study sets it")
    try:
        _bare_host(plan.host, **plan.host_kwargs)
    except TypeError as error:
        known = _options_of(plan.host)
        for option in plan.host_kwargs:
            if option not in known:
                hint = nearest(option, known)
                taken = "" if "known:" in hint else f" It takes {', '.join(known)}."
                raise ValueError(
                    f"host_kwargs: {plan.host} has no option {option!r}{hint}{taken}"
                ) from error
        raise ValueError(f"host_kwargs of {plan.host}: {error}") from error


def _bare_host(host: str, **options: Any) -> nn.Module:
    """The host with nothing in its places and no memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(
            host,
            attention="none",
            attention_kwargs={},
            num_classes=_CLASSES,
            **{"start": "plain", **options},
        )


def _options_of(host: str) -> list[str]:
    """The options of a host: of its entry point, and of the constructors that get what is left."""
    functions: list[Any] = [model_entrypoint(host)]
    for cls in type(_bare_host(host)).__mro__:
        if "__init__" in vars(cls):
            functions.append(cls)
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values()):
                break
    named = [
        parameter.name
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return sorted({*named} - {"pretrained", *_OF_THE_STUDY})
