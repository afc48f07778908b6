"""Where labelled images come from: the embedded digits, a folder, or a data set by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.arguments import nearest

SPLITS = ("train", "test")
WHOLE = "all"
NAMED = ("torchvision", "torch", "hfds", "tfds")
_FOLDERS = {"train": ("train", "training"), "test": ("val", "valid", "validation", "test", "eval")}


class DataError(ValueError):
    """The data cannot be used; the message says what was found and what would be right."""


class Source:
    """Labelled images in one part (``"all"``, still to be split) or two (``"train"``, ``"test"``).

    Attributes:
        name: what the user asked for.
        classes: their names.
        channels: 1 or 3.
        photographs: whether flips and colour changes leave the class as it is.
        labels: for each part, the class of each image.
    """

    name: str
    classes: list[str]
    channels = 3
    photographs = True
    labels: dict[str, list[int]]

    def describe(self, part: str, index: int) -> str:
        """A name for an image, the same in every process."""
        return f"{part}/{index}"

    def read(self, part: str, index: int) -> Image.Image:
        """The image, decoded; any exception means that it is unreadable."""
        raise NotImplementedError


def open_source(name: str, root: str | None = None) -> Source:
    """The images that ``name`` stands for.

    Args:
        name: ``"digits"``, a folder, or ``torchvision/NAME``, ``hfds/NAME``, ``tfds/NAME``.
        root: where named data sets lie or are downloaded to.

    Raises:
        DataError: if there are none, with what would be right.
    """
    if name == "digits":
        return Digits()
    if name.split("/", 1)[0] in NAMED and "/" in name and not Path(name).exists():
        return Named(name, root)
    return Folder(name)


class Digits(Source):
    """The 1,797 scans of hand-written digits, 8x8, that ship with scikit-learn."""

    channels = 1
    photographs = False

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.name = "digits"
        self.classes = [str(name) for name in digits.target_names]
        self.labels = {WHOLE: digits.target.tolist()}
        self._pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)

    def read(self, part: str, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])


class Folder(Source):
    """A tree with one folder a class, or two such trees: ``train`` and ``val`` (or ``test``).

    Files are taken as they are found: what cannot be decoded is for the reader to skip.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        root = Path(path).expanduser()
        if not root.exists():
            raise DataError(
                f"data {path!r} does not exist; give a folder of images, 'digits' or "
                "torchvision/NAME"
            )
        if not root.is_dir():
            raise DataError(f"data {path!r} is a file; give a folder with one folder a class")
        self._root = root
        train, test = (_first_folder(root, _FOLDERS[split]) for split in SPLITS)
        self._files: dict[str, list[Path]] = {}
        self.labels = {}
        if train is None or test is None:
            self.classes = self._add(WHOLE, train or test or root)
            return
        self.classes = self._add("train", train)
        names = self._add("test", test)
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise DataError(
                f"class {unknown[0]!r} of {str(test)!r} is not in {str(train)!r}"
                f"{nearest(unknown[0], self.classes)}"
            )
        number = [self.classes.index(name) for name in names]
        self.labels["test"] = [number[label] for label in self.labels["test"]]

    def _add(self, part: str, tree: Path) -> list[str]:
        """Files and labels of a tree; returns its classes."""
        files: list[Path] = []
        labels: list[int] = []
        classes: list[str] = []
        for folder in sorted(p for p in tree.iterdir() if p.is_dir() and p.name[0] != "."):
            members = sorted(p for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")
            if members:
                files += members
                labels += [len(classes)] * len(members)
                classes.append(folder.name)
        if not classes:
            raise DataError(f"no images in {str(tree)!r}: expected one folder a class with files")
        if len(classes) == 1 and part != "test":
            raise DataError(
                f"only one class, {classes[0]!r}, in {str(tree)!r}: expected one folder a class, "
                "at least two"
            )
        self._files[part], self.labels[part] = files, labels
        return classes

    def describe(self, part: str, index: int) -> str:
        return self._files[part][index].relative_to(self._root).as_posix()

    def read(self, part: str, index: int) -> Image.Image:
        with Image.open(self._files[part][index]) as image:
            return image.convert("RGB")


class Named(Source):
    """A data set by name, through timm's factory: torchvision's, Hugging Face's, TensorFlow's."""

    def __init__(self, name: str, root: str | None) -> None:
        self.name = name
        self._sets = {split: self._create(split, root) for split in SPLITS}
        self.labels = {split: self._labels(split) for split in SPLITS}
        names = getattr(self._sets["train"], "classes", None)
        count = 1 + max(max(labels) for labels in self.labels.values())
        self.classes = [str(n) for n in names] if names else [str(i) for i in range(count)]
        image, _ = self._sets["train"][0]
        if not isinstance(image, Image.Image):
            raise DataError(f"{name} gives {type(image).__name__}, not images")
        self.channels = 1 if image.mode in ("L", "1", "I;16", "I") else 3

    def _create(self, split: str, root: str | None) -> Any:
        from timm.data import create_dataset

        known = re.sub("^torchvision/", "torch/", self.name)
        folder = Path(root or "~/.cache/foveate").expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = create_dataset(
                known, root=str(folder), split="train" if split == "train" else "validation",
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

    def read(self, part: str, index: int) -> Image.Image:
        image, _ = self._sets[part][index]
        return image.convert("L" if self.channels == 1 else "RGB")


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
