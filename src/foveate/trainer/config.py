"""What one training does: a plain record that reads from YAML or JSON and writes back.

Most of it is what a trial of a study has as well, and is read by the same fields of
:class:`foveate.study.plan.Plan`, so that a training and a trial of equal settings give equal
numbers. What a study has no use for stands here: the engine's options, devices, loggers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from foveate.study import plan as plans
from foveate.study import settings as read
from foveate.study.entry import Entry, PlanError, nearest
from foveate.study.host import own_host
from foveate.study.plan import Plan, Setting, read_plan

CONFIG = "config.yaml"
"""What a run directory calls it."""

_HEADS = {
    "segmentation": ("semantic_fpn", "upernet", "psp", "fcn", "dual", "light"),
    "detection": ("retinanet", "faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"),
}
_OF_STUDIES = (
    "attention", "controls", "seeds", "host", "host_kwargs", "head", "folds", "match", "tune",
    "lr_grid", "latency", "workers", "trial_minutes", "executor", "address",
)  # fmt: skip
"""Settings of a plan that a training says otherwise, or has no use for."""

SHARED = tuple(name for name in plans.SETTINGS if name not in _OF_STUDIES)
"""Settings that are a plan's."""

_DEFAULTS: dict[str, Any] = {"freeze": "nothing"}
"""Where a training differs from a trial when nothing is said: weights are a start, not the host."""

LOGGERS = ("tensorboard", "csv", "wandb")


def _stated(read: Any, help: str, default: str | None = None) -> dict[str, Setting]:
    return {"setting": Setting(read, help, default)}


def _decay(key: str, value: Any) -> float:
    found = read.positive_number(key, value)
    if found > 1:
        raise PlanError(f"{key} must be above 0 and at most 1, got {value!r}")
    return found


def _average(key: str, value: Any) -> float | None:
    if value is None:
        return None
    found = read.positive_number(key, value)
    if found >= 1:
        raise PlanError(f"{key} must be above 0 and below 1, such as 0.9999, got {value!r}")
    return found


def _loggers(key: str, value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    return tuple(read.one_of(*LOGGERS)(key, name) for name in read.texts(key, names))


def _one(kind: str) -> Callable[[str, Any], Entry | None]:
    """Reads one entry, of a mechanism or a reducer."""

    def one(key: str, value: Any) -> Entry | None:
        if value is None:
            return None
        found = read.entries(key, value)
        if len(found) != 1:
            raise PlanError(f"{key} is one {kind}, got {value!r}; several are compared by a study")
        return found[0]

    return one


def _seed(key: str, value: Any) -> int:
    return read.whole(key, value, 0)


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        plan: what is learnt and from what, as a plan of one row and one seed.

    The other fields state their checks and helps in :data:`SETTINGS`; ``foveate train --help``
    shows them.
    """

    plan: Plan
    model: str = field(
        default="pyramid_pico",
        metadata=_stated(
            read.text,
            "any timm model by name, or FILE.py:FUNCTION; behind a head in the other tasks, as in "
            "upernet:slide_swin_tiny or retinanet:pvt_tiny",
        ),
    )
    model_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata=_stated(read.mapping, "options of the model, such as drop_path_rate=0.2"),
    )
    attention: Entry | None = field(
        default=None,
        metadata=_stated(
            _one("mechanism"),
            "a mechanism to put into the model, as NAME:key=value; see at and where",
        ),
    )
    reduce: Entry | None = field(
        default=None,
        metadata=_stated(
            _one("reducer"),
            "a reducer that the model is put through before it learns, as NAME:key=value, such as "
            "dynamicvit:keep=0.7; foveate list --role reducer names them",
        ),
    )
    distill: float | None = field(
        default=None,
        metadata=_stated(
            read.maybe_number,
            "weight of what a reduced model learns from the model that it was; 0 for labels alone",
            "0.5 where all its weights, the classifier's too, are from a file; else 0",
        ),
    )
    seed: int = field(default=0, metadata=_stated(_seed, "of everything that is drawn"))
    optimizer_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata=_stated(read.mapping, "options of timm's create_optimizer")
    )
    schedule_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata=_stated(read.mapping, "options of timm's create_scheduler, such as min_lr=1e-5"),
    )
    accumulate: int = field(
        default=1, metadata=_stated(read.whole, "batches whose gradients make one update")
    )
    layer_decay: float = field(
        default=1.0,
        metadata=_stated(_decay, "learning rate of each layer over that of the layer above it"),
    )
    ema: float | None = field(
        default=None,
        metadata=_stated(
            _average,
            "average the weights, this share of the average staying at each update; the average is "
            "what is measured and saved",
            "none",
        ),
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata=_stated(
            read.flag, "batch norm over the images of all devices; needs CUDA devices"
        ),
    )
    devices: int | None = field(
        default=None,
        metadata=_stated(
            read.maybe_whole,
            "processes on this machine, one a device; batch_size is that of all together",
            "what torchrun started, else 1",
        ),
    )
    nodes: int | None = field(
        default=None,
        metadata=_stated(read.maybe_whole, "machines", "what torchrun started, else 1"),
    )
    strategy: str = field(
        default="ddp",
        metadata=_stated(
            read.one_of("ddp", "fsdp"),
            "ddp: every device has the whole model; fsdp: each has a part",
        ),
    )
    timeout: float = field(
        default=600.0,
        metadata=_stated(
            read.positive_number, "seconds that a process waits for another one before it gives up"
        ),
    )
    logger: tuple[str, ...] = field(
        default=(), metadata=_stated(_loggers, f"any of {', '.join(LOGGERS)}", "none")
    )
    samples: int = field(
        default=16,
        metadata=_stated(_seed, "held-out images whose predictions are shown at the end"),
    )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML holds them."""
        shared = self.plan.to_dict()
        own = {each.name: getattr(self, each.name) for each in _own_fields()}
        for name in ("attention", "reduce"):
            if own[name] is not None:
                own[name] = plans.entry_value(own[name])
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        first = ("task", "data")
        return {
            **{key: shared[key] for key in first},
            **plain,
            **{key: shared[key] for key in SHARED if key not in first},
        }

    def to_yaml(self) -> str:
        """The configuration as a file that ``--config`` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def _own_fields() -> list[Any]:
    return [each for each in fields(TrainConfig) if each.name != "plan"]


_IN_A_TRAINING: dict[str, dict[str, str]] = {
    "metric": {
        "help": plans.SETTINGS["metric"].help.replace(
            "what mechanisms are judged by", "what the model is judged by"
        )
    },
    "weights": {
        "help": "what to start from: a file of weights, the folder of an earlier training, or timm "
        "for those that timm has of the model; in segmentation and detection of its backbone or of "
        "the whole; none trains from scratch"
    },
    "at": {
        "help": "where attention goes in the model: branch or stage, behind which it is inserted; "
        "or what it replaces: attention, gate, conv, depthwise or a glob of modules"
    },
    "where": {"help": "globs of the places that attention is put into"},
    "freeze": {
        "help": "norms (batch norms keep statistics and weights) or nothing",
        "default": "nothing",
    },
    "added_lr_scale": {
        "help": "learning rate of what attention puts into the model over that of the rest"
    },
    "start": {
        "help": "of what attention puts into the model: identity (scaled by zero; what is replaced "
        "stays beside) or plain"
    },
    "threads": {"help": "CPU threads of a process", "default": "all cores, shared by devices"},
}
"""What is said otherwise of a plan's setting where nothing is compared and there is no host."""

SETTINGS: dict[str, Setting] = {
    **{each.name: each.metadata["setting"] for each in _own_fields()},
    **{name: plans.SETTINGS[name]._replace(**_IN_A_TRAINING.get(name, {})) for name in SHARED},
}
"""What each setting of a training states, by its name."""

TYPES: dict[str, Any] = {
    **{name: kind for name, kind in get_type_hints(TrainConfig).items() if name != "plan"},
    **{name: plans.TYPES[name] for name in SHARED},
}
"""The type of each setting."""


def defaults() -> dict[str, Any]:
    """The settings when nothing is said, as plain values."""
    return read_config({}).to_dict()


EFFECTLESS = ("logger", "samples", "timeout", "devices", "nodes", "strategy", "cache", "threads")
"""Settings that change no number, but for rounding."""


def read_config(values: Mapping[str, Any], where: str = "the configuration") -> TrainConfig:
    """A configuration from plain values; keys that are missing keep their defaults.

    Raises:
        PlanError: if a key is unknown (with the nearest) or a value does not fit.
    """
    shared: dict[str, Any] = dict(_DEFAULTS)
    own: dict[str, Any] = {}
    names = [each.name for each in _own_fields()]
    for key, value in values.items():
        if key not in SETTINGS:
            raise PlanError(f"unknown key {key!r} in {where}{nearest(str(key), SETTINGS)}")
        if key not in names:
            if value is not None or key not in _DEFAULTS:
                shared[key] = value
            continue
        try:
            own[key] = SETTINGS[key].read(key, value)
        except PlanError as error:
            raise PlanError(f"{error} (in {where})") from None
    task = shared.get("task", "classification")
    if own.get("reduce") is not None and task != "classification":
        raise PlanError(f"reduce is for classification, not for {task} (in {where})")
    head, host = _model(own.get("model", "pyramid_pico"), task, where)
    entry, options = own.get("attention"), dict(own.get("model_kwargs", {}))
    if shared.get("weights") is not None and takes_attention(host):
        host = f"timm/{host}"  # weights are of a model as a whole, its mechanism among its options
        if entry is not None:
            given = {"attention": entry.name, "attention_kwargs": entry.kwargs}
            options, entry = {**given, "start": shared.get("start", "identity"), **options}, None
    plan = {
        "attention": [] if entry is None else [plans.entry_value(entry)],
        "controls": ["none"] if entry is None else [],
        "seeds": [own.get("seed", 0)],
        "host": host,
        "host_kwargs": options,
        "match": None,
        **({} if head is None else {"head": head}),
        **{key: value for key, value in shared.items() if not _is_default(key, value, host)},
    }
    return TrainConfig(read_plan(plan, where), **own)


def _is_default(key: str, value: Any, host: str) -> bool:
    """Whether a setting of hosts of the user's own is left out, where the host is none."""
    return key in _DEFAULTS and value == _DEFAULTS[key] and own_host(host) is None


def _model(name: str, task: str, where: str) -> tuple[str | None, str]:
    """The head, if the name has one before it, and the host as a plan calls it."""
    head, colon, rest = name.partition(":")
    heads = _HEADS.get(task, ())
    known = colon and not head.endswith(".py")
    if known and head not in heads:
        raise PlanError(
            f"model {name!r}: {head!r} is no head of task {task}{nearest(head, heads)} (in {where})"
            if heads
            else f"model {name!r}: task {task} takes no head before the model (in {where})"
        )
    host = rest if known else name
    if known or own_host(host) is None:
        host = host if takes_attention(host) else f"timm/{host}"
    return (head if known else None), host


def takes_attention(host: str) -> bool:
    """Whether it is one of the backbones whose blocks take a mechanism by name."""
    return host.startswith("pyramid_")


def load_config(path: Path) -> TrainConfig:
    """A configuration from a YAML or JSON file.

    Raises:
        PlanError: if there is none there, or it is not one.
    """
    return read_config(plans.read_file(path, "configuration"), str(path))


def complete(config: TrainConfig) -> TrainConfig:
    """The configuration with what was left open decided for this machine and these data.

    Raises:
        PlanError: if the device, or what is to be imported, is not there.
    """
    plan = config.plan
    if plan.image_size is None and plan.weights is not None:
        from foveate.study.warm_start import input_of  # late: it imports PyTorch

        before = input_of(plan.weights)
        plan = replace(plan, image_size=None if before is None else before.size)
    whole = plans.complete(plan)
    here = config.devices or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = config.plan.threads or max(1, plans.cores() // here)
    return replace(config, plan=replace(whole, threads=threads, workers=1))


def difference(before: TrainConfig, now: TrainConfig) -> str | None:
    """The first key in which two differ in a way that changes numbers, in words."""
    old, new = before.to_dict(), now.to_dict()
    for key, value in old.items():
        if key not in EFFECTLESS and value != new[key]:
            return f"{key} is {value!r} there and {new[key]!r} here"
    return None
