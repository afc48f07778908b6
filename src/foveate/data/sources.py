"""The images that a name stands for: embedded, in a folder, a list, arrays, or published."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.data.arrays import Arrays
from foveate.data.characters import Characters
from foveate.data.folders import Folder
from foveate.data.hugging_face import SavedDataset, is_saved_dataset
from foveate.data.lists import List, parquet_files
from foveate.data.source import TEST, TRAIN, DataError, Item, Listing, Raw, Source, from_array

__all__ = ["EMBEDDED", "DataError", "Digits", "Named", "open_source"]

EMBEDDED = ("characters", "digits")
NAMED = ("torchvision", "torch", "hfds", "tfds")
_LISTS = (".csv", ".tsv", ".txt", ".parquet")
_ARRAYS = (".npz", ".npy")


def open_source(name: str, root: str | None = None) -> Source:
    """The source of the images that ``name`` stands for; nothing is listed or read yet.

    Args:
        name: ``"characters"``, ``"digits"``, a folder of images, a list (``.csv``, ``.tsv``,
            ``.parquet``, or a folder of Parquet files), a NumPy file (``.npz``, ``.npy``), a folder
            of ``datasets.save_to_disk``, or ``torchvision/NAME``, ``hfds/NAME``, ``tfds/NAME``.
        root: where named data sets lie or are downloaded to, or what the paths in a list are
            relative to.

    Raises:
        DataError: if there are none, with what would be right.
    """
    if name == "characters":
        return Characters()
    if name == "digits":
        return Digits()
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        path = Path(name)
    if path.is_file():
        return _file(name, path, root)
    if name.split("/", 1)[0] in NAMED and "/" in name and not path.exists():
        return Named(name, root)
    if is_saved_dataset(path):
        return SavedDataset(name)
    if path.is_dir() and parquet_files(path):
        return List(name, root)
    return Folder(name)


def _file(name: str, path: Path, root: str | None) -> Source:
    suffix = path.suffix.lower()
    if suffix in _LISTS:
        return List(name, root)
    if suffix in _ARRAYS:
        return Arrays(name)
    raise DataError(
        f"data {name!r} is a file of a kind that is not read; give a folder with one folder a "
        f"class, a list ({', '.join(_LISTS)}) or a NumPy file ({', '.join(_ARRAYS)})"
    )


class Digits(Source):
    """The 1,797 scans of hand-written digits, 8x8, that ship with scikit-learn."""

    channels = 1

    def __init__(self) -> None:
        self.name = "digits"

    def list(self) -> Listing:
        labels = self._digits.target.tolist()
        classes = [str(name) for name in self._digits.target_names]
        return Listing(classes, [Item(str(row), label) for row, label in enumerate(labels)])

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        pixels = np.rint(self._digits.images[int(name)] * (255 / 16)).astype(np.uint8)
        return Raw(from_array(pixels))

    @cached_property
    def _digits(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()


class Named(Source):
    """A data set by name, through timm's factory: torchvision's, Hugging Face's, TensorFlow's."""

    def __init__(self, name: str, root: str | None) -> None:
        self.name = name
        self._sets = {split: self._create(split, root) for split in (TRAIN, TEST)}
        image, _ = self._sets[TRAIN][0]
        if not isinstance(image, Image.Image):
            raise DataError(f"{name} gives {type(image).__name__}, not images")
        self.channels = 1 if image.mode in ("L", "1", "I", "I;16") else 3

    def list(self) -> Listing:
        labels = {split: self._labels(split) for split in self._sets}
        names = getattr(self._sets[TRAIN], "classes", None)
        count = 1 + max(max(column) for column in labels.values())
        classes = [str(n) for n in names] if names else [str(i) for i in range(count)]
        items = [
            Item(f"{split}/{row}", label, split)
            for split, column in labels.items()
            for row, label in enumerate(column)
        ]
        return Listing(classes, items)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        split, row = name.split("/")
        image, _ = self._sets[split][int(row)]
        image.load()
        return Raw(image)

    def _create(self, split: str, root: str | None) -> Any:
        from timm.data import create_dataset

        known = re.sub("^torchvision/", "torch/", self.name)
        try:
            folder = Path(root or "~/.cache/foveate").expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            found = create_dataset(
                known, root=str(folder), split="train" if split == TRAIN else "validation",
                download=True,
            )  # fmt: skip
            if len(found) == 0:
                raise DataError(f"{self.name} holds no images ({split})")
            return found
        except DataError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"data {self.name!r} cannot be opened: {reason}") from error

    def _labels(self, split: str) -> list[int]:
        found = self._sets[split]
        targets = getattr(found, "targets", None)
        if targets is None:
            targets = [found[i][1] for i in range(len(found))]
        return [int(label) for label in targets]
