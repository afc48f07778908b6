"""Mechanisms by name: a frozen record each, written by ``@register``, read by :func:`describe`.

A user's own mechanism registers the same way, with the decorator or through the entry-point
group ``foveate.attention`` (whose entries name a module that registers on import, or the class).
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_args

from foveate.arguments import nearest, one_of
from foveate.contracts import Role

ENTRY_POINTS = "foveate.attention"

TAGS = {
    "weights": "shows dense attention weights, which reproduce its output",
    "self": "every query attends to itself",
    "local": "a query attends to a bounded neighbourhood",
    "heads": "takes num_heads, which must divide dim",
    "batch_statistics": "normalises over the batch when training",
    "published": "loads the published implementation's weights",
    "unordered": "knows no positions: reordering them reorders its output alike",
    "fusable": "has an exact, cheaper form for deployment (foveate.fuse)",
    "trained": "has weights of its own, to be trained before it is of use",
}


@dataclass(frozen=True)
class Spec:
    """What the library knows of a mechanism.

    Attributes:
        name: the name users say.
        cls: the module's class, an Attention or a Reducer of :mod:`foveate.contracts`.
        role: mixer, gate, token_mixer, aligner or reducer.
        family: what it looks at: gates, local, window, full or sequence (or the user's own); of a
            reducer what there is less of afterwards: tokens, channels or maps.
        title: a line that says what it is.
        paper: authors, title, venue and identifier.
        source: published code, as repository@commit; empty where none was published.
        license: of the published code; empty where it states none.
        tags: capabilities, from :data:`TAGS`; the common checks follow them.
        parity: what the numbers were compared with, and known differences.
    """

    name: str
    cls: type[Any]
    role: Role
    family: str
    title: str
    paper: str
    source: str = ""
    license: str = ""
    tags: frozenset[str] = frozenset()
    parity: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All that is known of the mechanism as plain values, ready for JSON.

        Beside the attributes: what each tag means, the constructor's ``options`` with their
        defaults and meanings, and the ``documentation`` of the mechanism's module.
        """
        return {
            "name": self.name,
            "title": self.title,
            "role": self.role,
            "family": self.family,
            "paper": self.paper,
            "source": self.source,
            "license": self.license,
            "tags": {tag: meaning for tag, meaning in TAGS.items() if tag in self.tags},
            "options": _options(self.cls),
            "parity": self.parity,
            "documentation": inspect.cleandoc(sys.modules[self.cls.__module__].__doc__ or ""),
        }


_SPECS: dict[str, Spec] = {}
_Class = TypeVar("_Class", bound=type)


def register(
    name: str,
    *,
    family: str,
    title: str,
    paper: str,
    source: str = "",
    license: str = "",
    tags: Iterable[str] = (),
    parity: str = "",
) -> Callable[[_Class], _Class]:
    """Class decorator that makes a mechanism known by ``name``.

    Args:
        name: what users write; lower case with underscores.
        family: gates, local, window, full, sequence, or a name of your own; of a reducer tokens,
            channels or maps.
        title: one line.
        paper: the publication.
        source: published code as ``owner/repository@commit``.
        license: license of that code.
        tags: capabilities, keys of :data:`TAGS`.
        parity: known differences to the publication, in a sentence.

    Raises:
        ValueError: if the name is not lower case with underscores or is taken by another class, or
            a tag or the role is unknown.
        TypeError: if ``tags`` is a single word.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a name is lower case with underscores, such as my_gate; got {name!r}")
    if isinstance(tags, str):
        raise TypeError(f"tags is a list of words; pass [{tags!r}]")

    def add(cls: _Class) -> _Class:
        for tag in tags:
            one_of(tag, TAGS, "tag")
        if not hasattr(cls, "role"):
            raise ValueError(
                f"{cls.__name__} has no role: derive it from foveate.contracts.Mixer (a map to a "
                "map), Gate, TokenMixer, Aligner or Reducer"
            )
        role = one_of(cls.role, get_args(Role), f"role of {cls.__name__}")  # pyrefly: ignore
        taken = _SPECS.get(name)
        if taken is not None and _qualified(taken.cls) != _qualified(cls):
            raise ValueError(
                f"attention {name!r} is already registered by {_qualified(taken.cls)}; "
                "choose another name"
            )
        _SPECS[name] = Spec(
            name, cls, role, family, title, paper, source, license, frozenset(tags), parity
        )  # fmt: skip
        return cls

    return add


def describe(name: str) -> Spec:
    """The record of the mechanism ``name``.

    Raises:
        ValueError: if it is unknown, with the nearest names.
    """
    _load_all()
    if name not in _SPECS:
        raise ValueError(f"unknown attention {name!r}{nearest(str(name).lower(), _SPECS)}")
    return _SPECS[name]


def list_attention(
    pattern: str = "*", *, family: str | None = None, role: Role | None = None
) -> list[str]:
    """Names of the mechanisms that match, in alphabetical order.

    Args:
        pattern: a glob, such as ``"*window*"``.
        family: keep this family only.
        role: keep this role only; reducers, which are of whole models and not of layers, are named
            where they are asked for.

    Raises:
        ValueError: if the family or role is unknown.
    """
    _load_all()
    if family is not None:
        one_of(family, {spec.family for spec in _SPECS.values()}, "family")
    if role is not None:
        one_of(role, get_args(Role), "role")
    return sorted(
        name
        for name, spec in _SPECS.items()
        if fnmatch.fnmatchcase(name, pattern)
        and family in (None, spec.family)
        and (spec.role != "reducer" if role is None else spec.role == role)
    )


def list_reducers(pattern: str = "*") -> list[str]:
    """Names of the reducers that match, in alphabetical order; :func:`foveate.reduce` takes them.

    Args:
        pattern: a glob, such as ``"*vit*"``.
    """
    return list_attention(pattern, role="reducer")


def reducer_name(cls: type) -> str | None:
    """The name under which the class of a reducer is registered; None if it is under none."""
    return next((name for name in list_reducers() if describe(name).cls is cls), None)


def option_names(spec: Spec) -> list[str]:
    """Names of the constructor's arguments."""
    return list(inspect.signature(spec.cls).parameters)


def _options(cls: type) -> list[dict[str, Any]]:
    meanings = _meanings(cls.__doc__ or "")
    return [
        {
            "name": option.name,
            "required": option.default is option.empty,
            "default": None if option.default is option.empty else _plain(option.default),
            "meaning": meanings.get(option.name, ""),
        }
        for option in inspect.signature(cls).parameters.values()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _meanings(docstring: str) -> dict[str, str]:
    """What a Google docstring's ``Args`` says of each argument."""
    meanings: dict[str, str] = {}
    name = ""
    lines = inspect.cleandoc(docstring).partition("\nArgs:\n")[2].splitlines()
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            break
        if indent == 4 and ":" in line:
            name, _, text = line.strip().partition(":")
            meanings[name] = text.strip()
        elif name and line.strip():
            meanings[name] += " " + line.strip()
    return meanings


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@cache
def _load_all() -> None:
    """Import every mechanism of the library, then those that other packages announce."""
    import foveate.attention as families
    import foveate.reduction as reducers

    for package in (families, reducers):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()
