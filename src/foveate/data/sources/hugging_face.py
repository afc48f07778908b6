"""A folder that Hugging Face's ``datasets`` wrote with ``save_to_disk``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.data.findings import printable
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
from foveate.data.sources.lists import LABELS, PATHS

_MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")


def is_saved_dataset(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


class SavedDataset(Source):
    """One data set or a dictionary of splits."""

    def __init__(self, name: str) -> None:
        self.name = name

    def list(self) -> Listing:
        _, label = self._columns
        features = next(iter(self._splits.values())).features
        named = getattr(features[label], "names", None)
        labels = {split: list(data[label]) for split, data in self._splits.items()}
        values = {value for column in labels.values() for value in column if value is not None}
        try:
            order = list(range(len(named))) if named else sorted(values)
        except TypeError:
            raise DataError(
                f"{self.name}: labels of column {label!r} are of several types"
            ) from None
        number = {value: place for place, value in enumerate(order)}
        items = [
            Item(f"{split}/{row}", number[value], split_named(split) or "")
            for split, column in labels.items()
            for row, value in enumerate(column)
            if value in number
        ]
        notes = [f"columns {self._columns[0]!r} and {label!r} are read as image and class"]
        classes = [printable(str(name)) for name in named or order]
        items = settle_splits(items, notes, self.name)
        return Listing(classes, items, [], notes)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        split, row = name.rsplit("/", 1)
        value = self._splits[split][int(row)][self._columns[0]]
        if isinstance(value, Image.Image):
            return Raw(value)
        if isinstance(value, dict) and value.get("bytes"):
            return open_file(value["bytes"], side)
        raise DataError(f"column {self._columns[0]!r} holds {type(value).__name__}, not images")

    @cached_property
    def _splits(self) -> dict[str, Any]:
        try:
            from datasets import DatasetDict, load_from_disk  # pyrefly: ignore
        except ImportError:
            raise DataError(
                f"reading {self.name} needs the package datasets: pip install datasets"
            ) from None
        try:
            loaded = load_from_disk(str(Path(self.name).expanduser()))
        except Exception as error:
            raise DataError(f"{self.name} cannot be read by datasets: {error}") from None
        return dict(loaded) if isinstance(loaded, DatasetDict) else {"all": loaded}

    @cached_property
    def _columns(self) -> tuple[str, str]:
        features = next(iter(self._splits.values())).features
        image = _column(features, "Image", PATHS)
        label = _column(features, "ClassLabel", LABELS)
        if image is None or label is None:
            missing = "images" if image is None else "labels"
            raise DataError(
                f"{self.name} has no column of {missing}; its columns are "
                f"{', '.join(map(repr, features))}"
            )
        return image, label


def _column(features: Any, kind: str, names: tuple[str, ...]) -> str | None:
    """The column of that type, or of one of the names; by name where there are several."""
    typed = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(typed) == 1:
        return typed[0]
    return next((name for name in names if name in (typed or features)), None)
