"""What a study compares and how: a plain record that reads from YAML and writes back.

Everything that decides the numbers of a trial is in the plan, and the plan that ran is saved with
the result, with every default filled in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from foveate.arguments import nearest

DEFAULT_ATTENTION = ("slide", "window", "multi_head", "sliding_window", "cbam")
DEFAULT_CONTROLS = ("none", "depthwise_conv")


class PlanError(ValueError):
    """A plan that cannot run; the message names the key and what would be right."""


@dataclass(frozen=True)
class Entry:
    """One thing that is compared.

    Attributes:
        name: the mechanism or control.
        kwargs: its options.
        label: what tables and file names call it.
        control: whether it is there to compare with.
    """

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    control: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            options = ",".join(f"{key}={value}" for key, value in self.kwargs.items())
            object.__setattr__(self, "label", f"{self.name}({options})" if options else self.name)

    @property
    def key(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^\w.=,+-]+", "_", self.label).strip("_")

    @classmethod
    def read(cls, value: Any, control: bool = False) -> Entry:
        """An entry from ``"name"``, ``"name:key=value,key=value"`` or a mapping.

        Raises:
            PlanError: if it is none of these.
        """
        key = "controls" if control else "attention"
        if isinstance(value, str):
            name, _, options = value.partition(":")
            return cls(name, _options(options, value), control=control)
        if isinstance(value, Mapping):
            unknown = [k for k in value if k not in ("name", "kwargs", "label")]
            if unknown:
                raise PlanError(
                    f"unknown key {unknown[0]!r} under {key}"
                    f"{nearest(unknown[0], ('name', 'kwargs', 'label'))}"
                )
            if not isinstance(value.get("name"), str):
                raise PlanError(f"an entry of {key} needs a name, got {dict(value)}")
            kwargs = value.get("kwargs") or {}
            if not isinstance(kwargs, Mapping):
                raise PlanError(f"kwargs of {value['name']} must be a mapping, got {kwargs!r}")
            return cls(value["name"], dict(kwargs), str(value.get("label") or ""), control)
        raise PlanError(f"{key} lists names or {{name:, kwargs:, label:}}, got {value!r}")


def _options(text: str, whole: str) -> dict[str, Any]:
    options = {}
    # A comma inside brackets belongs to a value, as in window_size=[4,8].
    for item in re.split(r",(?![^\[(]*[\])])", text) if text else []:
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise PlanError(f"expected NAME:key=value,key=value, got {whole!r}")
        options[key] = yaml.safe_load(value)
    return options


@dataclass(frozen=True)
class Plan:
    """A study. A field that is None is filled in by :func:`complete`.

    Attributes:
        attention: what is compared.
        controls: what it is compared with.
        seeds: one trial of each for every seed.
        data: digits, a folder of images, or torchvision/NAME.
        data_root: where named data sets lie or are downloaded to.
        limit: train on at most this many images, and measure on a quarter as many.
        image_size: height and width.
        host: the timm model in whose blocks the attention stands.
        host_kwargs: its further options.
        epochs: passes over the training images.
        batch_size: images a batch.
        optimizer: a timm name.
        lr: highest learning rate.
        weight_decay: of weights that are neither biases nor norms.
        schedule: a timm name.
        warmup_epochs: over which the learning rate rises.
        label_smoothing: share of the target spread over all classes.
        mixup: timm's mixup alpha; 0 mixes nothing.
        clip_grad: largest norm of the gradient.
        augment: auto, none, affine (drawings) or photo (timm's transforms).
        augment_kwargs: options of timm's ``create_transform``.
        precision: Lightning's word, such as 32-true or bf16-mixed.
        device: cpu, cuda, mps or auto.
        workers: trials at a time.
        threads: CPU threads of a trial.
        imports: modules or files that register mechanisms of the user's own.
    """

    attention: tuple[Entry, ...] = tuple(Entry(name) for name in DEFAULT_ATTENTION)
    controls: tuple[Entry, ...] = tuple(Entry(name, control=True) for name in DEFAULT_CONTROLS)
    seeds: tuple[int, ...] = (0, 1, 2)
    data: str = "digits"
    data_root: str | None = None
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    host: str = "pyramid_pico"
    host_kwargs: dict[str, Any] = field(default_factory=dict)
    epochs: int = 8
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clip_grad: float | None = 1.0
    augment: str = "auto"
    augment_kwargs: dict[str, Any] = field(default_factory=dict)
    precision: str = "32-true"
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    imports: tuple[str, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that is compared, controls last."""
        return self.attention + self.controls

    @property
    def trials(self) -> list[tuple[Entry, int]]:
        """Every entry with every seed; the first seed of all comes first."""
        return [(entry, seed) for seed in self.seeds for entry in self.entries]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML holds them."""
        values = asdict(self)
        for key in ("attention", "controls"):
            values[key] = [_entry_value(entry) for entry in getattr(self, key)]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def to_yaml(self) -> str:
        """The plan as a file that ``--plan`` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def _entry_value(entry: Entry) -> Any:
    if not entry.kwargs and entry.label == entry.name:
        return entry.name
    value: dict[str, Any] = {"name": entry.name}
    if entry.kwargs:
        value["kwargs"] = entry.kwargs
    return {**value, "label": entry.label}


def read_plan(values: Mapping[str, Any], where: str = "the plan") -> Plan:
    """A plan from plain values; keys that are missing keep their defaults.

    Raises:
        PlanError: if a key is unknown (with the nearest) or a value does not fit.
    """
    known = {f.name: f for f in fields(Plan)}
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise PlanError(f"unknown key {key!r} in {where}{nearest(str(key), known)}")
        try:
            read[key] = _READERS[key](key, value)
        except PlanError as error:
            raise PlanError(f"{error} (in {where})") from None
    plan = Plan(**read)
    _check_whole(plan, where)
    return plan


def load_plan(path: Path) -> Plan:
    """A plan from a YAML file.

    Raises:
        PlanError: if there is none there, or it is not one.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"plan {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"plan {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise PlanError(f"{path} holds no plan: expected lines such as 'epochs: 10'")
    return read_plan(values, str(path))


def complete(plan: Plan) -> Plan:
    """The plan with what was left open decided for this machine and these data.

    Raises:
        PlanError: if the device is not there.
    """
    device = _device(plan.device)
    cores = _cores()
    workers = plan.workers or (min(cores, len(plan.trials), 8) if device == "cpu" else 1)
    return replace(
        plan,
        device=device,
        workers=workers,
        threads=plan.threads or max(1, cores // workers),
        image_size=plan.image_size or ((32, 32) if plan.data == "digits" else (64, 64)),
        data=plan.data if plan.data == "digits" else _absolute(plan.data),
        imports=tuple(map(_absolute, plan.imports)),
    )


def difference(before: Plan, now: Plan) -> str | None:
    """The first key in which two plans differ in a way that changes numbers, in words."""
    old, new = before.to_dict(), now.to_dict()
    for key, value in old.items():
        if key != "workers" and value != new[key]:
            return f"{key} is {value!r} there and {new[key]!r} here"
    return None


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PlanError(f"device {name!r} is not available here: {reason}") from error
    return name


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


def _check_whole(plan: Plan, where: str) -> None:
    if not plan.entries:
        raise PlanError(f"{where} compares nothing: attention is empty")
    labels = [entry.key for entry in plan.entries]
    for entry in plan.entries:
        if labels.count(entry.key) > 1:
            raise PlanError(f"{entry.label} stands twice in {where}; give each its own label")
    if len(set(plan.seeds)) < len(plan.seeds):
        raise PlanError(f"seeds repeats a number: {list(plan.seeds)} (in {where})")


def _refuse(key: str, what: str, value: Any) -> PlanError:
    return PlanError(f"{key} must be {what}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(key: str, value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(key, f"a whole number of at least {least}", value)
    return value


def _maybe_whole(key: str, value: Any) -> int | None:
    return None if value is None else _whole(key, value)


def _number(key: str, value: Any) -> float:
    # YAML reads 1e-3, without a point, as text.
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value):
        value = float(value)
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise _refuse(key, "a number of at least 0", value)
    return float(value)


def _share(key: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value < 1:
        raise _refuse(key, "a number in [0, 1)", value)
    return float(value)


def _maybe_number(key: str, value: Any) -> float | None:
    return None if value is None else _number(key, value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(key, "a name", value)
    return value


def _maybe_text(key: str, value: Any) -> str | None:
    return None if value is None else _text(key, value)


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, Mapping):
        raise _refuse(key, "a mapping of options", value)
    return dict(value or {})


def _texts(key: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(key, item) for item in _listed(key, value))


def _listed(key: str, value: Any) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, (str, Mapping)):
        return [value]
    if not isinstance(value, Sequence):
        raise _refuse(key, "a list", value)
    return value


def _size(key: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    both = [value, value] if isinstance(value, int) else list(_listed(key, value))
    if len(both) == 1:
        both *= 2
    if len(both) != 2:
        raise _refuse(key, "one number or height and width", value)
    return _whole(key, both[0]), _whole(key, both[1])


def _seeds(key: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(_whole(key, value)))
    seeds = tuple(_whole(key, item, 0) for item in _listed(key, value))
    if not seeds:
        raise _refuse(key, "how many, or a list of whole numbers", value)
    return seeds


_READERS = {
    "attention": lambda key, value: tuple(Entry.read(v) for v in _listed(key, value)),
    "controls": lambda key, value: tuple(Entry.read(v, True) for v in _listed(key, value)),
    "seeds": _seeds,
    "data": _text,
    "data_root": _maybe_text,
    "limit": _maybe_whole,
    "image_size": _size,
    "host": _text,
    "host_kwargs": _mapping,
    "epochs": _whole,
    "batch_size": _whole,
    "optimizer": _text,
    "lr": _number,
    "weight_decay": _number,
    "schedule": _text,
    "warmup_epochs": _number,
    "label_smoothing": _share,
    "mixup": _number,
    "clip_grad": _maybe_number,
    "augment": _text,
    "augment_kwargs": _mapping,
    "precision": _text,
    "device": _text,
    "workers": _maybe_whole,
    "threads": _maybe_whole,
    "imports": _texts,
}
