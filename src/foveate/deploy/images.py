"""Images of the user's for quantization: to calibrate with, and to count right answers on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.data.batches import Fit, normalized
from foveate.data.moments import sample
from foveate.data.pixels.decode import NeedsRangeError, Raw, ValueRange, open_file, to_8_bits
from foveate.data.pixels.reader import reduce
from foveate.data.sources.base import TEST
from foveate.data.sources.open import open_source
from foveate.deploy.request import Request

CALIBRATION = 128
"""Images to calibrate with, at most."""
_BATCH = 16
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


class Preparation(NamedTuple):
    """From an image to the model's input, as in training: resized to fill, the middle cut out.

    Attributes:
        request: whose size and channels.
        mean: of each channel, of images in [0, 1].
        std: standard deviation, likewise.
        ranges: of the values of deep images, by kind, as a trained model's file states them.
    """

    request: Request
    mean: Sequence[float]
    std: Sequence[float]
    ranges: Mapping[str, ValueRange] = {}

    def __call__(self, raw: Raw) -> Tensor:
        """``(1, C, H, W)``, normalised.

        Raises:
            ValueError: if the image is deep and nothing states the range of its values.
        """
        try:
            image, _ = to_8_bits(raw, self.request.channels, dict(self.ranges))
        except NeedsRangeError as error:
            raise ValueError(
                f"an image of {error.kind} values needs the range that is black to white: a model "
                "that was trained on such images has it in its file (give info)"
            ) from error
        x = Fit(self.request.size)(reduce(image, self.request.size))[None]
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (self.mean, self.std))
        return normalized(x, mean, std).contiguous()  # runtimes go by the layout, too


class Accuracy(NamedTuple):
    """Shares of right answers before and after quantization.

    Attributes:
        before: of the model.
        after: of the file.
        images: how many were asked.
    """

    before: float
    after: float
    images: int


class Calibration(NamedTuple):
    """Images to calibrate with.

    Attributes:
        images: ready for the model, ``(1, C, H, W)`` each.
        broken: files that could not be read.
    """

    images: list[Tensor]
    broken: list[str]


def calibration_images(folder: str | Path, prepare: Preparation) -> Calibration:
    """Up to :data:`CALIBRATION` images of a folder and those inside, spread over it.

    Raises:
        ValueError: if there is no image that can be read.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"no folder of images at {str(folder)!r}")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    found: list[Tensor] = []
    broken: list[str] = []
    for row in sample(len(files), CALIBRATION):
        try:
            raw = open_file(files[row], prepare.request.size)
        except Exception:  # Pillow's decoders raise errors of many kinds
            broken.append(str(files[row].relative_to(root)))
            continue
        found.append(prepare(raw))
    if not found:
        raise ValueError(f"there is no image that can be read in {root}")
    return Calibration(found, broken)


class Labelled:
    """The held-out images of a set with their classes, or all where it holds none out.

    Args:
        name: of a folder with one folder a class, or what else ``foveate compare --data`` takes.
        prepare: for the model.
        classes: that the model tells apart, by their number or in its order by name.
    """

    def __init__(self, name: str, prepare: Preparation, classes: int | Sequence[str]) -> None:
        self.source = open_source(str(name))
        listing = self.source.list()
        held_out = [item for item in listing.items if item.split == TEST]
        self.items, self.prepare = held_out or listing.items, prepare
        order = listing.classes if isinstance(classes, int) else list(classes)
        count = classes if isinstance(classes, int) else len(order)
        unknown = [each for each in listing.classes if each not in order]
        guessed = isinstance(classes, int) and len(order) != count  # which is which
        if unknown or len(listing.classes) > count or guessed:
            raise ValueError(
                f"{name} has {len(listing.classes)} classes, and the model {count}"
                + (f"; it does not know {unknown[0]!r}" if unknown else "")
            )
        self.places = [order.index(each) for each in listing.classes]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``(B, C, H, W)`` and labels ``(B,)``."""
        for first in range(0, len(self.items), _BATCH):
            items = self.items[first : first + _BATCH]
            size = self.prepare.request.size
            images = [self._read(item.name, size) for item in items]
            yield torch.cat(images), torch.tensor([self.places[item.label] for item in items])

    def _read(self, name: str, size: tuple[int, int]) -> Tensor:
        try:
            raw = self.source.read(name, size)
        except Exception as error:
            raise ValueError(f"image {name} to evaluate with cannot be read: {error}") from error
        return self.prepare(raw)

    def accuracies(
        self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]
    ) -> Accuracy:
        """Of two programs that give logits."""
        right = [0, 0]
        for images, labels in self.batches():
            for place, run in enumerate((before, after)):
                right[place] += int((run(images).argmax(1) == labels).sum())
        count = len(self.items)
        return Accuracy(right[0] / count, right[1] / count, count)


def one_by_one(run: Callable[[Tensor], Iterable[Tensor]]) -> Callable[[Tensor], Tensor]:
    """First outputs of a batch by a program that takes one image."""
    return lambda images: torch.cat([next(iter(run(image))) for image in images.split(1)])
