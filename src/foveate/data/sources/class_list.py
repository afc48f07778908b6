"""The classes of masks: their names, colors and the labels that count nowhere, from a file.

Read is, from the folder of the set: ``classes.json`` (names; or an object with ``classes``, and
perhaps ``colors`` and ``ignore_index``; or names by number), ``class_dict.csv`` (name, r, g, b, as
in many sets with colored masks), ``labelmap.txt`` (``name:r,g,b::``, as CVAT writes) or a list of
names, one a line (``classes.txt``, ``names.txt``, ``class_names.txt``, ``labels.txt``).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from foveate.data.findings import printable
from foveate.data.sources.base import DataError

Color = tuple[int, int, int]

_LINES = ("classes.txt", "names.txt", "class_names.txt", "labels.txt")
MOST = 65535
"""The largest label that a mask can hold."""

FILES = ("classes.json", "class_dict.csv", "labelmap.txt", *_LINES)


class ClassList(NamedTuple):
    """What a file says of the values in masks.

    Attributes:
        file: its name, for messages.
        names: of the values 0, 1, ...
        colors: of the same, where masks may be in color; empty if it says none.
        ignored: values that count nowhere.
    """

    file: str
    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    ignored: frozenset[int] = frozenset()


def read_class_list(root: Path) -> ClassList | None:
    """The class list in a folder, if there is one.

    Raises:
        DataError: if there are several, or it cannot be read.
    """
    found = [name for name in FILES if (root / name).is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(f"{root} has several lists of classes, {' and '.join(found)}: keep one")
    path = root / found[0]
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            listed = _of_json(found[0], json.loads(text))
        elif path.suffix == ".csv":
            listed = _of_csv(found[0], text)
        elif found[0] == "labelmap.txt":
            listed = _of_labelmap(found[0], text)
        else:
            lines = [line.strip() for line in text.rstrip().splitlines()]
            if "" in lines:
                raise ValueError(f"line {lines.index('') + 1} is blank, and a line is a class")
            listed = ClassList(found[0], tuple(lines))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise DataError(f"{path} is no list of classes that can be read: {error}") from None
    if not listed.names:
        raise DataError(f"{path} names no class")
    for name in listed.names:
        if type(name) not in (str, int, float):
            raise DataError(f"{path} needs a name for each class, got {name!r}")
    names = tuple(printable(str(name)) for name in listed.names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} names the class {twice!r} twice")
    if listed.colors and len(listed.colors) != len(names):
        raise DataError(f"{path} has {len(listed.colors)} colors for {len(names)} classes")
    twice = next((color for color in listed.colors if listed.colors.count(color) > 1), None)
    if twice is not None:
        raise DataError(f"{path} gives the color {twice} to two classes")
    return listed._replace(names=names)


def _of_json(file: str, values: Any) -> ClassList:
    if isinstance(values, Mapping) and "classes" in values:
        names = _list_of(values["classes"])
        colors = values.get("colors", values.get("palette", ()))
        if names and isinstance(names[0], Mapping):
            colors = [each["color"] for each in names if "color" in each]
            names = [each["name"] for each in names]
        ignored = next((values[k] for k in ("ignore_index", "ignore_label") if k in values), None)
        if ignored is not None:
            check_ignored(ignored, "ignore_index")
        of = () if ignored is None else (ignored,)
        return ClassList(file, tuple(names), tuple(map(_color, colors)), frozenset(of))
    if isinstance(values, Mapping):
        by_number = (
            {int(number): name for number, name in values.items()}
            if all(str(key).isdecimal() for key in values)
            else {_whole(number): name for name, number in values.items()}
        )
        if len(by_number) < len(values):
            raise ValueError("it gives two classes one number")
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(f"the numbers of its classes are {sorted(by_number)}, not 0, 1, ...")
        return ClassList(file, tuple(by_number[number] for number in range(len(by_number))))
    return ClassList(file, tuple(_list_of(values)))


def check_ignored(value: Any, name: str) -> None:
    """Refuse a label that no mask can hold.

    Raises:
        DataError: naming it.
    """
    if type(value) is not int or not -1 <= value <= MOST:
        raise DataError(f"{name} must be a whole number, -1 to {MOST:,}, got {value!r}")


def _list_of(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"expected a list of names, got {values!r}")
    return values


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"the number of a class is {number!r}")
    return number


def _of_csv(file: str, text: str) -> ClassList:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows[0][1].strip().isdecimal():
        rows = rows[1:]
    return ClassList(file, tuple(row[0].strip() for row in rows),
                     tuple(_color(row[1:4]) for row in rows))  # fmt: skip


def _of_labelmap(file: str, text: str) -> ClassList:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    parts = [line.split(":") for line in lines]
    return ClassList(file, tuple(part[0].strip() for part in parts),
                     tuple(_color(part[1].split(",")) for part in parts))  # fmt: skip


def _color(values: Sequence[Any]) -> Color:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"{(red, green, blue)} is no color of 8 bits")
    return red, green, blue
