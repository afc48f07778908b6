"""YOLO's label files: one text an image, with a line ``class x y width height`` an object.

Positions are centres; all are shares of the width and height of the upright image. A line of a
class and three or more points is a polygon. Names of classes, and the splits, are in ``data.yaml``;
without one the names are the lines of ``classes.txt`` (or ``obj.names``), and splits are folders
called train, val and test. The labels of ``images/a.jpg`` are in ``labels/a.txt``, or beside it.

Format: docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from foveate.data.annotations.files import ImageFiles, read_text, split_word
from foveate.data.annotations.geometry import look_like_corners
from foveate.data.annotations.masks import read_mask
from foveate.data.annotations.record import AnnotatedImage, Annotations, Category, Mask, Objects
from foveate.data.findings import LeftOut, images_of, printable
from foveate.data.pixels.decode import read_header, reason
from foveate.data.sources.base import FINAL, TEST, TRAIN, DataError

NO_IMAGE = "label files without an image"
REPEATED = "lines repeated in a label file"
NAME_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
_KEYS = {"train": TRAIN, "val": TEST, "test": FINAL}
_SLACK = 0.01


class _Labels(NamedTuple):
    """What one label file says."""

    path: Path
    image: str
    split: str
    size: tuple[int, int]
    lines: list[_Line]


class _Line(NamedTuple):
    number: int
    label: int
    box: tuple[float, ...]  # four numbers, in shares
    polygon: list[float] | None  # in shares


def read_yolo(
    root: Path, description: Path | None, masks: bool = False
) -> tuple[Annotations, Path]:
    """What the label files hold, and the folder that the names of images are relative to.

    Args:
        root: the folder of the set.
        description: its ``data.yaml``, if there is one.
        masks: whether polygons are read as masks.

    Raises:
        DataError: naming file and line, if one cannot be understood.
    """
    if description is not None:
        categories, sources, root = _described(description)
    else:
        categories, sources = _named_by_lines(root), [("", root)]
    images = ImageFiles(root)
    found = Annotations("YOLO", categories, [])
    label_of = {category.id: label for label, category in enumerate(categories)}
    files, without = [], 0
    for name, split in _images(images, sources):
        path = label_path(root / name)
        try:
            size = read_header(root / name).upright
        except Exception as error:
            found.left_out.append(LeftOut(name, reason(error, name), unreadable=True))
            continue
        without += not path.exists()
        files.append(_Labels(path, name, split, size, list(_lines(path, label_of, found))))
    if not files:
        gone = [f", {each.name!r} for one ({each.reason})" for each in found.left_out[:1]]
        raise DataError(f"no readable image below {str(root)!r}{''.join(gone)}")
    if without == len(files):
        looked = label_path(root / files[0].image)
        raise DataError(f"no image below {str(root)!r} has a label file, such as {str(looked)!r}")
    found.left_out += [LeftOut(name, NO_IMAGE) for name in _orphans(images)]
    if without:
        found.notes.append(
            f"{images_of(without)} without a label file: taken to hold no object, as YOLO does"
        )
    corners = _recognise(files, found)
    found.images = [
        AnnotatedImage(file.image, file.size, _objects(file, corners, masks), file.split)
        for file in files
    ]
    return found, root


def label_path(image: Path) -> Path:
    """Where the labels of an image are: under ``labels`` in place of ``images``, or beside it."""
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    for place in range(len(parts) - 2, 0, -1):
        if parts[place] == "images" and not beside.exists():
            parts[place] = "labels"
            return Path(*parts)
    return beside


def _orphans(images: ImageFiles) -> list[str]:
    """Files with a first line of numbers, among label files, to which no image belongs."""
    paths = {label_path(images.root / name) for name in images.all}
    folders = {path.parent for path in paths}
    others = sorted({path for folder in folders for path in folder.glob("*.txt")} - paths)
    return [os.path.relpath(path, images.root) for path in others if _holds_numbers(path)]


def _holds_numbers(path: Path) -> bool:
    try:
        words = path.read_text(encoding="utf-8-sig").split("\n", 1)[0].split()
        return len([float(word) for word in words]) >= 5
    except (ValueError, OSError):
        return False


def _described(description: Path) -> tuple[tuple[Category, ...], list[tuple[str, Path]], Path]:
    """Categories, folders or lists of each split, and the folder around them all."""
    values = _load_yaml(description)
    categories = _named_by_yaml(values, description)
    bases = [description.parent]
    if values.get("path"):
        bases = [description.parent / str(values["path"]), Path(str(values["path"])), *bases]
    sources = []
    for key, split in _KEYS.items():
        given = values.get(key) or (values.get("valid") if key == "val" else None) or []
        places = given if isinstance(given, list) else [given]
        what = f"{description}: {key}"
        sources += [(split, _place(str(place), bases, what)) for place in places]
    if not sources:
        raise DataError(f"{description} names no folder of images under train, val or test")
    folders = [p if p.is_dir() else p.parent for _, p in sources]
    return categories, sources, Path(os.path.commonpath([f.resolve() for f in folders]))


def _place(given: str, bases: list[Path], what: str) -> Path:
    for base in bases:
        # Exports of Roboflow say ../train/images where ./train/images is meant.
        for tried in (given, given.removeprefix("../")):
            if (base / tried).exists():
                return (base / tried).resolve()
    raise DataError(f"{what} is {given!r}, which is not there; looked in {str(bases[0])!r}")


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise DataError(f"{path} needs the package pyyaml: pip install pyyaml") from None
    try:
        values = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no keys such as names, train and val")
    return values


def _named_by_yaml(values: dict[str, Any], path: Path) -> tuple[Category, ...]:
    names = values.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path} has no names, which label files give by their numbers")
    if values.get("nc") not in (None, len(names)):
        raise DataError(f"{path} says nc: {values['nc']}, but names {len(names)} classes")
    for number, name in names.items():
        if type(number) is not int or type(name) not in (str, int, float):
            raise DataError(
                f"{path}: names needs a name for each number from 0, in quotes where YAML reads "
                f"something else, got {number!r}: {name!r}"
            )
    found = sorted(Category(number, str(name)) for number, name in names.items())
    return _distinct(tuple(found), path)


def _distinct(categories: tuple[Category, ...], path: Path) -> tuple[Category, ...]:
    name, count = Counter(category.name for category in categories).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has {count} classes of the name {name!r}")
    return categories


def _named_by_lines(root: Path) -> tuple[Category, ...]:
    for name in NAME_FILES:
        for path in sorted(root.rglob(name)):
            names = [line.strip() for line in read_text(path).rstrip().splitlines()]
            if "" in names or not names:
                raise DataError(
                    f"{path} has {'a blank line' if names else 'no names'}: expected a name a line"
                )
            return _distinct(tuple(Category(n, name) for n, name in enumerate(names)), path)
    raise DataError(
        f"{str(root)!r} has label files, which give classes by number, but no names: put a "
        "data.yaml with names, or a classes.txt with a name a line, into it"
    )


def _images(images: ImageFiles, sources: list[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
    """Name and split of every image; one that is named twice is refused."""
    seen: dict[str, str] = {}
    for split, place in sources:
        for name in _images_of(images, place):
            mine = split or _split_of(name)
            if seen.setdefault(name, mine) != mine:
                raise DataError(f"{printable(name)!r} is in two splits: {seen[name]} and {mine}")
    yield from seen.items()


def _images_of(images: ImageFiles, place: Path) -> list[str]:
    root = images.root.resolve()
    if place.is_dir():
        inside = place.resolve().relative_to(root).as_posix()
        return [n for n in images.all if inside == "." or n.startswith(f"{inside}/")]
    found = []
    for line in filter(None, map(str.strip, read_text(place).splitlines())):
        path = (place.parent / line).resolve()
        if not path.is_relative_to(root):
            raise DataError(f"{place} lists {line!r}, which is outside {str(root)!r}")
        found.append(path.relative_to(root).as_posix())
    return found


def _split_of(name: str) -> str:
    for part in reversed(PurePosixPath(name).parts[:-1]):
        if (split := split_word(part)) is not None:
            return split
    return ""


def _lines(path: Path, label_of: dict[int, int], found: Annotations) -> Iterator[_Line]:
    if not path.exists():
        return
    seen = set()
    for number, text in enumerate(read_text(path).splitlines(), 1):
        words = text.split()
        if not words:
            continue
        if tuple(words) in seen:
            found.left_out.append(LeftOut(f"{path.name}, line {number}", REPEATED))
            continue
        seen.add(tuple(words))
        yield _line(path, number, words, label_of)


def _line(path: Path, number: int, words: list[str], label_of: dict[int, int]) -> _Line:
    where = f"{path}, line {number}"
    try:
        label, *values = map(float, words)
    except ValueError:
        raise DataError(f"{where} holds something else than numbers: {' '.join(words)!r}") from None
    if label not in label_of:
        known = ", ".join(map(str, label_of))
        raise DataError(f"{where} has the class {words[0]}; those that have a name are {known}")
    if len(values) == 5:
        raise DataError(
            f"{where} has six numbers, as predictions with a score have: labels have five, "
            "class x y width height"
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"{where} has {len(words)} numbers: expected class x y width height, or a class and "
            "the points of a polygon"
        )
    if max(values, default=0) > 1.5:
        raise DataError(
            f"{where} holds {max(values):g}: positions and sizes are shares of the image, 0 to 1"
        )
    if len(values) == 4:
        return _Line(number, label_of[int(label)], tuple(values), None)
    points = np.reshape(values, (-1, 2))
    low, high = points.min(0), points.max(0)
    return _Line(number, label_of[int(label)], (*((low + high) / 2), *(high - low)), values)


def _corners_of(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _recognise(files: list[_Labels], found: Annotations) -> bool:
    """Whether the boxes are two corners, where centre and size are meant."""
    given = np.array([line.box for file in files for line in file.lines if not line.polygon])
    if len(given) == 0:
        return False
    if look_like_corners(_corners_of(given), given, np.ones((len(given), 2)), _SLACK):
        found.warnings.append(
            "the boxes are read as x1, y1, x2, y2: as the centre and size of YOLO's files most "
            "leave their image, and as corners none does"
        )
        return True
    return False


def _objects(file: _Labels, corners: bool, masks: bool) -> Objects:
    if not file.lines:
        return Objects.none()
    height, width = file.size
    boxes = np.array([line.box for line in file.lines])
    plain = np.array([line.polygon is None for line in file.lines]) & corners
    boxes = np.where(plain[:, None], boxes, _corners_of(boxes)) * (width, height, width, height)
    count = len(boxes)
    return Objects(
        boxes,
        np.array([line.label for line in file.lines], np.int64),
        np.zeros(count, bool),
        np.full(count, np.nan),
        tuple(_mask(file, line) for line in file.lines) if masks else None,
        tuple(f"{file.path.name}, line {line.number}" for line in file.lines),
    )


def _mask(file: _Labels, line: _Line) -> Mask:
    where = f"{file.path}, line {line.number}"
    if line.polygon is None:
        raise DataError(
            f"{where} has no polygon: give masks='ellipse' or masks='rectangle' to draw masks from "
            "the boxes, or none"
        )
    height, width = file.size
    points = np.reshape(line.polygon, (-1, 2)) * (width, height)
    return read_mask([points.ravel().tolist()], file.size, where)
