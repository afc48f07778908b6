"""A list of images in a CSV, TSV or Parquet file: ``path,label[,split]``.

Paths are relative to the list, or to ``root``. Parquet files may hold the images themselves, as the
tables of the Hugging Face hub do (a column of ``{"bytes", "path"}``), in one file or in a folder of
files named after their split.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from foveate.arguments import nearest
from foveate.data.findings import LeftOut, printable
from foveate.data.pixels.decode import open_file
from foveate.data.sources.base import (
    DataError,
    Item,
    Listing,
    Raw,
    Source,
    settle_splits,
    split_named,
)

PATHS = ("path", "file", "filename", "file_name", "filepath", "image_path", "image", "img")
LABELS = ("label", "class", "category", "target", "labels", "class_name")
SPLIT = ("split", "subset", "set", "fold", "partition")
MISSING = "files of the list that are not there"
UNLABELLED = "rows without a label"

Row = Mapping[str, Any]


class List(Source):
    """A table with a row an image."""

    grows = True

    def __init__(self, name: str, root: str | None = None) -> None:
        self.name = name
        self.path = Path(name).expanduser()
        folder = self.path if self.path.is_dir() else self.path.parent
        self.root = Path(root).expanduser() if root else folder

    def list(self) -> Listing:
        path, label, split = self._columns
        left_out: list[LeftOut] = []
        found: dict[str, tuple[str, str]] = {}
        for number, row in enumerate(self._rows):
            name = self._name_of(row[path], number)
            value = _text(row[label])
            if not value:
                left_out.append(LeftOut(name, UNLABELLED))
                continue
            if not isinstance(row[path], Mapping) and not self._file(name).is_file():
                left_out.append(LeftOut(name, MISSING, value, unreadable=False))
                continue
            part = self._split_of(row, split, number)
            before = found.setdefault(name, (value, part))
            if before != (value, part):
                what = "labels" if before[0] != value else "splits"
                raise DataError(f"{self.name} lists {name!r} twice, with different {what}")
        if not found:
            why = f", {left_out[0].reason}: {left_out[0].name!r} and so on" if left_out else ""
            raise DataError(f"{self.name} lists no image that can be used{why}")
        classes = self._classes({value for value, _ in found.values()}, len(found))
        number_of = {name: number for number, name in enumerate(classes)}
        items = [Item(name, number_of[value], part) for name, (value, part) in found.items()]
        notes: list[str] = []
        items = settle_splits(items, notes, self.name)
        return Listing([printable(name) for name in classes], items, left_out, notes)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        row = re.fullmatch(r"row (\d+)", name)
        if row is None:
            return open_file(self._file(name), side)
        return open_file(self._rows[int(row[1])][self._columns[0]]["bytes"], side)

    def fingerprint(self, name: str) -> str | None:
        if re.fullmatch(r"row (\d+)", name):
            return None
        about = self._file(name).stat()
        return f"{self._file(name).absolute()}|{about.st_size}|{about.st_mtime_ns}"

    def _file(self, name: str) -> Path:
        path = self.root / name
        if "\\" in name and not path.exists():  # written on Windows
            return self.root / name.replace("\\", "/")
        return path

    @staticmethod
    def _name_of(value: Any, number: int) -> str:
        return f"row {number}" if isinstance(value, Mapping) else str(value).strip()

    def _split_of(self, row: Row, column: str | None, number: int) -> str:
        if column is None:
            return ""
        split = split_named(_text(row[column]))
        if split is None:
            raise DataError(
                f"{self.name} row {number + 1}: {row[column]!r} in column {column!r} is no split; "
                "expected train, val or test"
            )
        return split

    def _classes(self, values: Iterable[str], rows: int) -> list[str]:
        classes = sorted(values)
        if len(classes) == 1:
            raise DataError(f"{self.name} has one class only, {classes[0]!r}: at least two")
        if all(re.fullmatch(r"-?\d+", value) for value in classes):
            return sorted(classes, key=int)
        if any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", value) for value in classes):
            raise DataError(
                f"the labels of {self.name} are measurements, such as {classes[0]}; "
                "expected the names or numbers of classes"
            )
        if len(classes) == rows:
            raise DataError(
                f"every row of {self.name} has a label of its own, such as {classes[0]!r}; "
                "expected classes of several images"
            )
        return classes

    @cached_property
    def _columns(self) -> tuple[str, str, str | None]:
        if not self._rows:
            raise DataError(f"{self.name} has no rows")
        there = list(self._rows[0])
        found = [self._column(there, names) for names in (PATHS, LABELS, SPLIT)]
        for column, name in zip(found[:2], ("path", "label"), strict=True):
            if column is None:
                raise DataError(
                    f"{self.name} has no column {name!r}; its columns are "
                    f"{', '.join(map(repr, there))}{nearest(name, there) if there else ''}"
                )
        return found[0] or "", found[1] or "", found[2]

    @staticmethod
    def _column(there: list[str], names: tuple[str, ...]) -> str | None:
        known = {str(column).strip().casefold(): column for column in there}
        return next((known[name] for name in names if name in known), None)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        if self.path.is_dir():
            files = parquet_files(self.path)
            return [row for file in files for row in self._parquet_with_split(file)]
        if self.path.suffix.lower() == ".parquet":
            return read_parquet(self.path)
        return self._text_rows()

    @staticmethod
    def _parquet_with_split(file: Path) -> list[dict[str, Any]]:
        split = re.split(r"[-_.]", file.name)[0]
        rows = read_parquet(file)
        if split_named(split) is None:
            return rows
        return [{**row, "split": split} for row in rows]

    def _text_rows(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                head = file.readline()
                file.seek(0)
                delimiter = max(",;\t", key=head.count)
                rows = list(csv.DictReader(file, delimiter=delimiter, restkey="", restval=""))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.name} is not in UTF-8 (byte {error.start}); save it so"
            ) from None
        except (OSError, csv.Error) as error:
            raise DataError(f"{self.name} cannot be read: {error}") from None
        return rows


def _text(value: Any) -> str:
    """A label or split as text; missing values give nothing."""
    if value is None or value != value:  # NaN: tables write it for nothing
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of its ``data`` folder."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, through pyarrow.

    Raises:
        DataError: if pyarrow is missing or the file is not Parquet.
    """
    try:
        from pyarrow import parquet  # pyrefly: ignore
    except ImportError:
        raise DataError(f"reading {path} needs the package pyarrow: pip install pyarrow") from None
    try:
        return parquet.read_table(path).to_pylist()
    except Exception as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
