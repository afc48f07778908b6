"""Reading the fields of a JSON file: each is of its kind, or the error names it.

A file that was changed by hand is read as any other is, so nothing is converted: a number in
quotation marks is no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any


def whole(values: Mapping[str, Any], key: str, *, optional: bool = False, least: int = 0) -> Any:
    """The whole number of at least ``least`` at ``key``; None where that is allowed.

    Raises:
        KeyError: if the key is missing, as in all functions here.
        ValueError: if the value is of another kind, likewise.
    """
    value = values[key]
    if value is None and optional:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(key, value, f"a whole number of at least {least}")
    return value


def number(values: Mapping[str, Any], key: str, *, optional: bool = False) -> Any:
    """The finite number at ``key``, as a float; None where that is allowed."""
    if values[key] is None and optional:
        return None
    found = any_number(values, key)
    if not isfinite(found):
        raise _refuse(key, found, "a finite number")
    return found


def any_number(values: Mapping[str, Any], key: str) -> float:
    """The number at ``key``, which may be infinite or NaN, as a loss may."""
    value = values[key]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _refuse(key, value, "a number")
    return float(value)


def text(values: Mapping[str, Any], key: str) -> str:
    """The text at ``key``."""
    if not isinstance(values[key], str):
        raise _refuse(key, values[key], "text")
    return values[key]


def flag(values: Mapping[str, Any], key: str) -> bool:
    """True or false at ``key``."""
    if not isinstance(values[key], bool):
        raise _refuse(key, values[key], "true or false")
    return values[key]


def mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at ``key``."""
    if not isinstance(values[key], Mapping):
        raise _refuse(key, values[key], "an object")
    return values[key]


def texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts at ``key``."""
    value = values[key]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _refuse(key, value, "a list of texts")
    return tuple(value)


def numbers(values: Mapping[str, Any], key: str, count: int | None = None) -> tuple[float, ...]:
    """The finite numbers at ``key``, ``count`` of them where that is given."""
    value = values[key]
    sound = isinstance(value, list) and count in (None, len(value))
    if not sound or not all(type(each) in (int, float) and isfinite(each) for each in value):
        raise _refuse(key, value, f"{'' if count is None else f'{count} '}finite numbers")
    return tuple(map(float, value))


def size(values: Mapping[str, Any], key: str, *, optional: bool = False) -> Any:
    """Height and width at ``key``; None where that is allowed."""
    value = values[key]
    if value is None and optional:
        return None
    sound = isinstance(value, list) and len(value) == 2
    if not sound or not all(type(side) is int and side > 0 for side in value):
        raise _refuse(key, value, "two positive whole numbers")
    return tuple(value)


def one_of(values: Mapping[str, Any], key: str, known: Iterable[str]) -> Any:
    """The text at ``key``, which is one of ``known``."""
    if values[key] not in (known := tuple(known)):
        raise _refuse(key, values[key], " or ".join(known))
    return values[key]


def _refuse(key: str, value: Any, what: str) -> ValueError:
    return ValueError(f"{key} is {value!r}, where {what} is expected")
