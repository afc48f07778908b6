"""Which images are meant: files, folders and lists, each image under a name of its own."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from foveate._files import walk
from foveate.data.findings import LeftOut, printable
from foveate.data.pixels.decode import NEEDS_PACKAGE
from foveate.data.sources.base import DataError
from foveate.data.sources.lists import PATHS

HIDDEN = "hidden files and folders"
NO_IMAGE = "files that are no images"
TWICE = "images that were named more than once"
_LISTS = (".txt", ".lst", ".csv", ".tsv")


class Named(NamedTuple):
    """An image.

    Attributes:
        name: what results call it: its path below the folder that was given, or its file's name,
            with as many folders before it as tell it from others.
        path: of its file.
    """

    name: str
    path: Path


class Found(NamedTuple):
    """The images that were meant, in a fixed order, and what was passed over."""

    images: list[Named]
    left_out: list[LeftOut]


def find_images(given: Sequence[str | os.PathLike[str]], out: Path) -> Found:
    """The images of files, folders (with all below them) and lists.

    A list is a text file with a path a line, or a CSV or TSV file with a column of paths; paths are
    relative to it.

    Args:
        given: paths of such.
        out: a folder that is passed over, for results.

    Raises:
        DataError: if one of ``given`` is not there or names no image.
    """
    if not given:
        raise DataError("no images are named: give files, folders or lists of images")
    search = _Search(out.absolute())
    for name in map(os.fspath, given):
        search.add(name)
    return Found(_named(search.images), search.left_out)


class _Search:
    """Collects images with the fewest parts of their paths that may name them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.images: dict[Path, int] = {}
        self.left_out: list[LeftOut] = []

    def add(self, name: str) -> None:
        if not name:
            raise DataError("no images are named by '': give files, folders or lists of images")
        path = Path(name).expanduser().absolute()
        if path.is_dir():
            before = len(self.images) + self._count(TWICE)
            self._walk(path)
            if len(self.images) + self._count(TWICE) == before:
                raise DataError(f"no image in the folder {printable(name)!r} or below it")
        elif not path.exists():
            raise DataError(f"no image {printable(name)!r}: there is no such file or folder")
        elif path.suffix.lower() in _LISTS:
            self._read(path, name)
        else:
            self._take(path, 1)

    def _walk(self, root: Path) -> None:
        for folder, folders, files in walk(root):
            here = Path(folder)
            hidden = [each for each in folders if each.startswith(".")]
            folders[:] = sorted(
                each for each in folders if each not in hidden and here / each != self.out
            )
            self.left_out += [LeftOut(str(here / each), HIDDEN) for each in hidden]
            for file in sorted(files):
                path = here / file
                if file.startswith("."):
                    self.left_out.append(LeftOut(str(path), HIDDEN))
                elif _is_image(path):
                    self._take(path, len(path.relative_to(root).parts))
                else:
                    self.left_out.append(LeftOut(str(path), NO_IMAGE))

    def _read(self, path: Path, name: str) -> None:
        try:
            listed = _paths(path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"the list {printable(name)!r} cannot be read: {error}") from None
        files = [path.parent / Path(each).expanduser() for each in listed]
        if not files:
            raise DataError(f"the list {printable(name)!r} names no image")
        if not any(file.is_file() for file in files):
            raise DataError(
                f"the list {printable(name)!r} names {len(files):,} images, and none is there, "
                f"first {printable(listed[0])!r}: expected a path a line, relative to the list"
            )
        for file in files:
            self._take(file, 1)

    def _take(self, path: Path, parts: int) -> None:
        if path in self.images:
            self.left_out.append(LeftOut(str(path), TWICE))
        self.images[path] = max(parts, self.images.get(path, 1))

    def _count(self, reason: str) -> int:
        return sum(each.reason == reason for each in self.left_out)


def _paths(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() in (".txt", ".lst"):
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    heads = [cell.strip().casefold() for cell in rows[0]] if rows else []
    column = next((heads.index(head) for head in PATHS if head in heads), None)
    if column is None:
        return [row[0].strip() for row in rows]
    return [row[column].strip() for row in rows[1:] if len(row) > column]


def _is_image(path: Path) -> bool:
    """By the ending of its name, or by what is in it."""
    suffix = path.suffix.lower()
    if suffix in Image.registered_extensions() or suffix in NEEDS_PACKAGE:
        return True
    try:
        with Image.open(path):
            return True
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return False


def _named(images: dict[Path, int]) -> list[Named]:
    """Every image under the end of its path, as long as it has to be to be its own."""
    parts = dict(images)
    while clashes := _clashes(parts):
        for path in clashes:
            parts[path] += 1
    return [Named(_end(path, count), path) for path, count in parts.items()]


def _clashes(parts: dict[Path, int]) -> list[Path]:
    """Images of one name, on systems that tell no capitals apart as well, which can be longer."""
    by_name = defaultdict(list)
    for path, count in parts.items():
        by_name[_end(path, count).casefold()].append(path)
    return [
        path for alike in by_name.values() if len(alike) > 1
        for path in alike if parts[path] < len(path.parts) - 1
    ]  # fmt: skip


def _end(path: Path, parts: int) -> str:
    return "/".join(path.parts[-parts:])


def file_names(images: Iterable[Named], suffix: str) -> list[str]:
    """Where the results of images go: their names with another ending.

    Where two images would then have one name, all keep their own ending before it.
    """
    names = [image.name for image in images]
    short = [os.path.splitext(name)[0] + suffix for name in names]
    if len({name.casefold() for name in short}) == len(short):
        return short
    return [name + suffix for name in names]
