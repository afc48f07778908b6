"""Images in NumPy files: one ``.npz``, or a pair such as ``images.npy`` and ``labels.npy``.

An ``.npz`` holds ``images`` and ``labels`` (and ``split``, a word an image), or arrays a split
under the names of Keras (``x_train``, ``y_train``, ...) or MedMNIST (``train_images``,
``train_labels``, ...). Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels.
"""

from __future__ import annotations

import re
import zipfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foveate.data.findings import printable
from foveate.data.sources.base import (
    DataError,
    Item,
    Listing,
    Raw,
    Source,
    from_array,
    settle_splits,
    split_named,
)

_IMAGES = ("images", "image", "x", "data", "imgs")
_LABELS = ("labels", "label", "y", "targets", "target")
_CLASSES = ("classes", "class_names", "label_names")


class _Part(NamedTuple):
    """Arrays that belong together; ``split`` is a word, or one word an image, or empty."""

    images: np.ndarray
    labels: np.ndarray
    split: str | np.ndarray


class Arrays(Source):
    """The arrays of a ``.npz``, or a ``.npy`` of images with its labels beside it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(name).expanduser()
        self.notes: list[str] = []

    @property
    def channels(self) -> int:  # pyrefly: ignore
        """One if no image is in color."""
        return 1 if all(part.images.ndim == 3 or part.images.shape[-1] == 1
                        for part in self._parts) else 3  # fmt: skip

    def list(self) -> Listing:
        items = []
        values = [self._label_values(part) for part in self._parts]
        classes = np.unique(np.concatenate(values))
        names = self._class_names(classes)
        for number, (part, labels) in enumerate(zip(self._parts, values, strict=True)):
            splits = [part.split] * len(labels) if isinstance(part.split, str) else part.split
            for row, (label, word) in enumerate(zip(labels, splits, strict=True)):
                place = int(np.searchsorted(classes, label))
                items.append(Item(f"{number}/{row}", place, self._split(str(word))))
        notes = list(self.notes)
        items = settle_splits(items, notes, self.name)
        if len(names) < 2:
            raise DataError(f"{self.name} has one class only, {names[0]!r}: at least two")
        return Listing(names, items, [], notes)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        part, row = map(int, name.split("/"))
        return Raw(from_array(self._parts[part].images[row]))

    def _split(self, word: str) -> str:
        if not word:
            return ""
        split = split_named(word)
        if split is None:
            raise DataError(f"{self.name}: {word!r} is no split; expected train, val or test")
        return split

    @cached_property
    def _parts(self) -> list[_Part]:
        arrays = self._load()
        found = self._find(arrays)
        return [self._checked(*part) for part in found]

    def _load(self) -> dict[str, np.ndarray]:
        try:
            if self.path.suffix.lower() == ".npz":
                with np.load(self.path, allow_pickle=False) as file:
                    return {key: file[key] for key in file.files}
            return {
                "images": np.load(self.path, mmap_mode="r", allow_pickle=False),
                "labels": np.load(self._labels_beside(), allow_pickle=False),
            }
        except DataError:
            raise
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            text = " ".join(str(error).split())
            if "allow_pickle" in text or "Object arrays" in text:
                text = "it holds Python objects; save plain arrays of numbers or text"
            raise DataError(f"{self.name} cannot be read: {text}") from None

    def _labels_beside(self) -> Path:
        """The file of labels that goes with a file of images, by its name."""
        stem = self.path.stem
        tried = [
            re.sub(one, other, stem)
            for one, other in (
                ("images", "labels"), ("image", "label"), ("imgs", "labels"), ("data", "labels"),
                ("data", "targets"), (r"(^|_)[xX]($|_)", r"\1y\2"), (r"^.*$", "labels"),
                (r"^.*$", r"\g<0>_labels"),
            )
        ]  # fmt: skip
        for name in tried:
            path = self.path.with_name(name + ".npy")
            if name != stem and path.exists():
                return path
        raise DataError(
            f"{self.name} needs its labels in a file beside it: "
            f"{', '.join(dict.fromkeys(f'{n}.npy' for n in tried if n != stem))}"
        )

    def _find(self, arrays: dict[str, np.ndarray]) -> list[_Part]:
        keys = {key.casefold(): key for key in arrays}
        images = next((keys[k] for k in _IMAGES if k in keys), None)
        labels = next((keys[k] for k in _LABELS if k in keys), None)
        if images is not None and labels is not None:
            split = arrays[keys["split"]] if "split" in keys else ""
            return [_Part(arrays[images], arrays[labels], split)]
        parts = []
        for key in keys:
            word, what = _of_split(key)
            other = next((o for o in keys if _of_split(o) == (word, "labels")), None)
            if word and what == "images" and other:
                parts.append(_Part(arrays[keys[key]], arrays[keys[other]], word))
        if not parts:
            raise DataError(
                f"{self.name} holds {', '.join(map(repr, arrays)) or 'nothing'}; expected arrays "
                "'images' and 'labels' (and 'split'), 'x_train' and 'y_train' or 'train_images' "
                "and 'train_labels'"
            )
        return parts

    def _checked(self, images: np.ndarray, labels: np.ndarray, split: str | np.ndarray) -> _Part:
        what = f"{self.name}: images of shape {images.shape} and type {images.dtype}"
        if images.ndim not in (3, 4):
            raise DataError(f"{what}; expected (N, H, W) or (N, H, W, C)")
        if images.dtype.kind not in "buif":
            raise DataError(f"{what}; expected numbers")
        if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
            if images.shape[1] not in (1, 3, 4):
                raise DataError(f"{what}; expected 1, 3 or 4 channels, last or second")
            images = images.transpose(0, 2, 3, 1)
            self._note("images (N, C, H, W) are read as channels first")
        if images.ndim == 4 and images.shape[3] > 1 and images.dtype != np.uint8:
            images = self._to_bytes(images)
        if images.size == 0:
            raise DataError(f"{what}; there is none")
        if len(labels) != len(images):
            raise DataError(f"{self.name}: {len(images)} images but {len(labels)} labels")
        if not isinstance(split, str) and (split.ndim != 1 or len(split) != len(images)):
            raise DataError(f"{self.name}: split of shape {split.shape} for {len(images)} images")
        return _Part(images, labels, split)

    def _to_bytes(self, images: np.ndarray) -> np.ndarray:
        """Deep color images, which Pillow has no mode for, in 8 bits."""
        from foveate.data.pixels.decode import value_range

        if images.dtype == np.bool_:
            return images.astype(np.uint8) * 255
        kind = "floating-point" if images.dtype.kind == "f" else "integer"
        range_ = value_range(kind, float(np.nanmin(images)), float(np.nanmax(images)))
        self._note(f"color values {range_.low:g} to {range_.high:g} ({images.dtype}) are read as "
                   "0 to 255")  # fmt: skip
        out = np.empty(images.shape, np.uint8)
        for row, image in enumerate(images):
            scaled = (image - range_.low) * (255.0 / (range_.high - range_.low))
            out[row] = np.rint(np.nan_to_num(scaled).clip(0, 255))
        return out

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _label_values(self, part: _Part) -> np.ndarray:
        labels = part.labels
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        elif labels.ndim == 2 and np.isin(labels, (0, 1)).all():
            if not (labels.sum(1) == 1).all():
                raise DataError(
                    f"{self.name}: labels are several an image; expected one class each"
                )
            labels = labels.argmax(1)
        if labels.ndim != 1:
            raise DataError(
                f"{self.name}: labels of shape {labels.shape}; expected one number or word an image"
            )
        if labels.dtype.kind == "f":
            if not (labels == np.rint(labels)).all():
                raise DataError(f"{self.name}: labels such as {labels[0]} are no class numbers")
            labels = labels.astype(np.int64)
        if labels.dtype.kind not in "biuUS":
            raise DataError(
                f"{self.name}: labels of type {labels.dtype}; expected numbers or words"
            )
        return labels.astype(str) if labels.dtype.kind == "S" else labels

    def _class_names(self, classes: np.ndarray) -> list[str]:
        given = None
        if self.path.suffix.lower() == ".npz":
            with np.load(self.path, allow_pickle=False) as file:
                key = next((k for k in _CLASSES if k in file.files), None)
                given = file[key] if key else None
        if given is not None and classes.dtype.kind in "iu" and classes.max() < len(given):
            return [printable(str(given[number])) for number in classes]
        return [printable(str(value)) for value in classes]


def _of_split(key: str) -> tuple[str, str]:
    """``("train", "images")`` for ``train_images`` and ``x_train``; empty words for others."""
    pieces = key.split("_")
    if len(pieces) != 2:
        return "", ""
    for word, what in (pieces, pieces[::-1]):
        if split_named(word) and what in (*_IMAGES, *_LABELS):
            return word, "images" if what in _IMAGES else "labels"
    return "", ""
