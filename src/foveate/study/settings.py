"""The kinds of values that a plan takes: each is read and checked by one function."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from foveate.metrics import Metric
from foveate.study.entry import Entry, PlanError, nearest
from foveate.study.kinds import KINDS


def flag(key: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _refuse(key, "true or false", value)
    return value


def whole(key: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(key, f"a whole number of at least {least}", value)
    return value


def maybe_whole(key: str, value: Any) -> int | None:
    """A whole number of at least 1, or None."""
    return None if value is None else whole(key, value)


def maybe_label(key: str, value: Any) -> int | None:
    """A whole number of at least 0, or None."""
    return None if value is None else whole(key, value, 0)


def number(key: str, value: Any) -> float:
    """A finite number of at least 0."""
    return _number(key, value, "a finite number of at least 0", lambda x: 0 <= x < inf)


def share(key: str, value: Any) -> float:
    """A number in [0, 1)."""
    return _number(key, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def positive_number(key: str, value: Any) -> float:
    """A finite number above 0."""
    return _number(key, value, "a finite number above 0", lambda x: 0 < x < inf)


def maybe_positive(key: str, value: Any) -> float | None:
    """A finite number above 0, or None."""
    return None if value is None else positive_number(key, value)


def maybe_number(key: str, value: Any) -> float | None:
    """A finite number of at least 0, or None."""
    return None if value is None else number(key, value)


def numbers(key: str, value: Any) -> tuple[float, ...]:
    """Positive numbers, each once, in order; or none."""
    listed = _listed(key, [value] if _is_number(value) else value)
    read = tuple(sorted(number(key, item) for item in listed))
    if 0.0 in read or len(set(read)) < len(read):
        raise _refuse(key, "positive numbers, each once", value)
    return read


def folds(key: str, value: Any) -> int | None:
    """A whole number of at least 2, or None."""
    return None if value is None else whole(key, value, 2)


def text(key: str, value: Any) -> str:
    """A word."""
    if not isinstance(value, str) or not value:
        raise PlanError(f"{key} must be a name, got {_short(value)}{_HINTS.get(key, '')}")
    return value


def path(key: str, value: Any) -> str:
    """A word, or a path of Python's."""
    return text(key, os.fsdecode(value) if isinstance(value, os.PathLike) else value)


def maybe_path(key: str, value: Any) -> str | None:
    """A word or a path, or None."""
    return None if value is None else path(key, value)


def paths(key: str, value: Any) -> tuple[str, ...]:
    """Words or paths, or a single one."""
    return tuple(path(key, item) for item in _listed(key, value))


def one_of(*words: str) -> Callable[[str, Any], str]:
    """A reader of one of ``words``."""

    def read(key: str, value: Any) -> str:
        if value not in words:
            raise PlanError(
                f"{key} must be {' or '.join(words)}, got {value!r}{nearest(str(value), words)}"
            )
        return value

    return read


def maybe_one_of(*words: str) -> Callable[[str, Any], str | None]:
    """A reader of one of ``words``, or None."""
    read = one_of(*words)
    return lambda key, value: None if value is None else read(key, value)


def metric(key: str, value: Any) -> Metric:
    """A metric that a study can judge by, by its name."""
    known = {each.name: each for kind in KINDS.values() for each in kind.metrics}
    return value if isinstance(value, Metric) else known[one_of(*known)(key, value)]


MATCHES = ("multiply_adds", "parameters", "latency")
"""What the rows of a study can be made to cost the same of."""


def match(key: str, value: Any) -> str | None:
    """One of :data:`MATCHES`, or None."""
    if value is not None and value not in MATCHES:
        raise _refuse(key, f"one of {', '.join(MATCHES)}", value)
    return value


def mapping(key: str, value: Any) -> dict[str, Any]:
    """Options by their names."""
    if not isinstance(value or {}, Mapping):
        raise _refuse(key, "a mapping of options", value)
    return dict(value or {})


def texts(key: str, value: Any) -> tuple[str, ...]:
    """Words, or a single one."""
    return tuple(text(key, item) for item in _listed(key, value))


def globs(key: str, value: Any) -> tuple[str, ...]:
    """Globs of paths, at least one."""
    found = texts(key, value)
    if not found:
        raise _refuse(key, "a glob such as blocks.*.attn, or several", value)
    return found


def size(key: str, value: Any) -> tuple[int, int] | None:
    """Height and width, or one number for both; or None."""
    if value is None:
        return None
    both = [value, value] if isinstance(value, int) else list(_listed(key, value))
    if len(both) == 1:
        both *= 2
    if len(both) != 2:
        raise _refuse(key, "one number or height and width", value)
    return whole(key, both[0]), whole(key, both[1])


def seeds(key: str, value: Any) -> tuple[int, ...]:
    """The seeds themselves, or how many."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(whole(key, value)))
    chosen = tuple(whole(key, item, 0) for item in _listed(key, value))
    if not chosen:
        raise _refuse(key, "how many, or a list of whole numbers", value)
    return chosen


def entries(key: str, value: Any) -> tuple[Entry, ...]:
    """Mechanisms to compare."""
    return tuple(Entry.read(item) for item in _listed(key, value))


def controls(key: str, value: Any) -> tuple[Entry, ...]:
    """What they are compared with."""
    return tuple(Entry.read(item, control=True) for item in _listed(key, value))


_HINTS = {
    "host": "; for a model of your own pass 'timm/NAME' or 'FILE.py:FUNCTION'",
    "task": "; pass classification, segmentation or detection",
    "data": "; pass a folder, a list or a .npz file of images",
}


def _short(value: Any) -> str:
    """A value in an error: whole if it is a word or a number, else what it is."""
    plain = isinstance(value, (str, int, float, bool, type(None), list, tuple))
    return repr(value) if plain else f"a {type(value).__name__}"


def _refuse(key: str, what: str, value: Any) -> PlanError:
    return PlanError(f"{key} must be {what}, got {_short(value)}")


def _number(key: str, value: Any, what: str, holds: Callable[[float], bool]) -> float:
    value = _with_exponent(value)
    if not _is_number(value) or not holds(value):
        raise _refuse(key, what, value)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_exponent(value: Any) -> Any:
    """YAML reads 1e-3, without a point, as text: the number is what was meant."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value):
        return float(value)
    return value


def _listed(key: str, value: Any) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, (str, Mapping, os.PathLike)):
        return [value]
    if not isinstance(value, Sequence):
        raise _refuse(key, "a list", value)
    return value
