"""What every source of labelled images offers: a listing, and images by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from foveate.data.findings import LeftOut

TRAIN, TEST, FINAL = "train", "test", "final"
SPLITS = (TRAIN, TEST, FINAL)
"""To learn from; held out; and kept for the very end, where a set has three parts."""

_WORDS = {
    TRAIN: ("train", "training", "trn"),
    TEST: ("val", "valid", "validation", "dev", "eval", "evaluation"),
    FINAL: ("test", "testing", "tst"),
}
_ENDINGS = ("", "set", "data", "images", "split")
_MEANINGS = {
    word + ending: split for split, words in _WORDS.items() for word in words for ending in _ENDINGS
}


class DataError(ValueError):
    """The data cannot be used; the message says what was found and what would be right."""


class Item(NamedTuple):
    """One image of a listing.

    Attributes:
        name: by which :meth:`Source.read` finds it; the same in every process.
        label: its class, as an index.
        split: one of :data:`SPLITS`, or "" where the source leaves the split to us.
    """

    name: str
    label: int
    split: str = ""


@dataclass
class Listing:
    """What a source holds, before any image is decoded.

    Attributes:
        classes: their names.
        items: the images, in a fixed order.
        left_out: what was seen and is not used.
        notes: what was decided for the user, a sentence each.
        warnings: what may spoil a result, a sentence each.
        of_parts: whether classes are of pixels or of objects, and images have none of their own.
    """

    classes: list[str]
    items: list[Item]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    of_parts: bool = False


class Raw(NamedTuple):
    """An image as it was stored.

    Attributes:
        image: loaded and upright.
        kinds: what reading it took, see :data:`foveate.data.findings.KINDS`.
        pixels: of the stored image, where the decoder may have reduced it.
    """

    image: Image.Image
    kinds: tuple[str, ...] = ()
    pixels: int = 0


class Source:
    """Labelled images under a name.

    Attributes:
        name: what the user asked for.
        channels: 1 or 3, that all images are brought to.
        grows: whether images may be added while a study is interrupted.
    """

    name: str
    channels: int = 3
    grows: bool = False

    def list(self) -> Listing:
        """What there is.

        Raises:
            DataError: if it cannot be used.
        """
        raise NotImplementedError

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        """One image, upright, in whatever mode it has; any exception means that it is unreadable.

        Args:
            name: of an item.
            side: the height and width that a decoder may reduce towards, where it can cheaply.
        """
        raise NotImplementedError

    def fingerprint(self, name: str) -> str | None:
        """Changes when the stored image does; None where there is nothing to gain from a cache."""
        return None


def split_named(name: str) -> str | None:
    """The split that a folder or a value such as ``"Training_Set"`` stands for, if any."""
    return _MEANINGS.get("".join(c for c in name.casefold() if c.isalnum()))


def settle_splits(items: list[Item], notes: list[str], where: str) -> list[Item]:
    """Make two or three splits of what is there: one alone is split later, test becomes held out.

    Raises:
        DataError: if images are held out but none are there to learn from.
    """
    found = {item.split for item in items}
    if "" in found:
        if len(found) > 1:
            raise DataError(f"some images of {where} belong to a split and others do not")
        return items
    if TRAIN not in found:
        if len(found) > 1:
            raise DataError(f"{where} has images to hold out, but none to train on")
        notes.append(f"{where} has one split only; a fifth of it is held out")
        return [item._replace(split="") for item in items]
    if found == {TRAIN}:
        notes.append(f"{where} holds training images only; a fifth of them is held out")
        return [item._replace(split="") for item in items]
    if TEST not in found:
        return [item._replace(split=TEST if item.split == FINAL else TRAIN) for item in items]
    if FINAL in found:
        count = sum(item.split == FINAL for item in items)
        notes.append(f"{count:,} images of the test split are kept for the very end")
    return items


def from_array(pixels: np.ndarray) -> Image.Image:
    """(H, W), (H, W, 1) or (H, W, 3 or 4) as a PIL image of the mode that holds its type."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2):
        return Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.ndim == 2:
        whole = np.issubdtype(pixels.dtype, np.integer)
        return Image.fromarray(pixels.astype(np.int32 if whole else np.float32))
    raise TypeError(f"color images of {pixels.dtype}")
