"""One thing that a study compares: a mechanism or a control, with its options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml


class PlanError(ValueError):
    """A plan that cannot run; the message names the key and what would be right."""


def nearest(word: str, known: Iterable[str]) -> str:
    """As in :mod:`foveate.arguments`, which imports PyTorch: ``--help`` should not wait for it."""
    from foveate import arguments

    return arguments.nearest(word, known)


@dataclass(frozen=True)
class Entry:
    """One thing that is compared.

    Attributes:
        name: the mechanism or control.
        kwargs: its options.
        label: what tables and file names call it.
        control: whether it is there to compare with.
        host: options of its host alone, beside those of the plan, so that all rows cost the same.
    """

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    control: bool = False
    host: dict[str, Any] = field(default_factory=dict)

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
        raise PlanError(
            f"{key} lists names or {{name:, kwargs:, label:}}, got a {type(value).__name__}; "
            "a class of your own gets a name by foveate.register"
        )


class Trained(NamedTuple):
    """A trained model, as processes are told of it.

    Attributes:
        entry: what stands in it.
        seed: of its trial.
    """

    entry: Entry
    seed: int


def _options(text: str, whole: str) -> dict[str, Any]:
    options = {}
    # A comma inside brackets belongs to a value, as in window_size=[4,8].
    for item in re.split(r",(?![^\[(]*[\])])", text) if text else []:
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise PlanError(f"expected NAME:key=value,key=value, got {whole!r}")
        options[key] = read_value(value, key)
    return options


def read_value(text: str, where: str) -> Any:
    """What was typed for ``where``, as YAML.

    Raises:
        PlanError: if it is no YAML, such as a bracket that is never closed.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it is no YAML"
        raise PlanError(f"{where} cannot be read from {text!r}: {reason}") from None
