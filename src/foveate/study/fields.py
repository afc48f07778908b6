"""Reading the fields of a JSON file: each is of its kind, or the error names it.

A file that was changed by hand is read as any other is, so nothing is converted: a number in
quotation marks is no number.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def _refuse(key: str, value: Any, what: str) -> ValueError:
    return ValueError(f"{key} is {value!r}, where {what} is expected")
