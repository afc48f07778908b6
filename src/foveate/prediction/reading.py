"""Images as training read them: the same reader, channels, reduction, bit depths."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from foveate.data.findings import LeftOut
from foveate.data.pixels.decode import open_file, read_header, reason
from foveate.data.pixels.reader import Decoded, NeedsRangeError, Reader, read_or_error
from foveate.data.sources.base import Raw, Source
from foveate.prediction.files import Named
from foveate.saved.info import ImageInput

_WHOLE = (1 << 20, 1 << 20)


class Picture(NamedTuple):
    """An image that was read.

    Attributes:
        name: what results call it.
        pixels: uint8, (H, W) or (H, W, 3), reduced where training reduced it.
        size: height and width of the upright image in its file.
    """

    name: str
    pixels: np.ndarray
    size: tuple[int, int]


class Files(Source):
    """Images by their names."""

    def __init__(self, images: Sequence[Named], channels: int) -> None:
        self.name, self.channels = "images", channels
        self.paths = {image.name: image.path for image in images}

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        return open_file(self.paths[name], side)


class PictureReader:
    """Reads images batch by batch, and keeps count of what that took.

    Args:
        images: which.
        how: the model gets them.

    Attributes:
        left_out: those that could not be read, with the reason.
        kinds: by the names in :data:`foveate.data.findings.KINDS`, how many were interpreted.
        notes: what was decided, a sentence each.
    """

    def __init__(self, images: Sequence[Named], how: ImageInput) -> None:
        self.images = images
        source = Files(images, how.channels)
        self.paths = source.paths
        self.reader = Reader(source, how.channels, how.side or _WHOLE, dict(how.ranges))
        self.left_out: list[LeftOut] = []
        self.kinds: Counter[str] = Counter()
        self.notes: list[str] = []

    def batches(self, size: int, advance: Callable[[int], None]) -> Iterator[list[Picture]]:
        """Images that can be read, ``size`` at a time, in order.

        Args:
            size: images a batch.
            advance: called with the number of images that were tried since the last call.
        """
        waiting: list[Picture] = []
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            # Pillow still refuses what is beyond twice its limit; what it warns of is no news here.
            warnings.filterwarnings("ignore", module="PIL")
            for start in range(0, len(self.images), size):
                names = [image.name for image in self.images[start : start + size]]
                for name, image in zip(
                    names, pool.map(read_or_error(self.reader), names), strict=True
                ):
                    waiting += self._picture(name, image)
                    if len(waiting) == size:
                        yield waiting
                        waiting = []
                advance(len(names))
        if waiting:
            yield waiting

    def _picture(self, name: str, image: Decoded | Exception) -> list[Picture]:
        """The image, or nothing where it cannot be read."""
        while isinstance(image, NeedsRangeError):
            if image.kind not in self.reader.ranges:
                names = [each.name for each in self.images]
                found = self.reader.find_range(image.kind, names, name)
                self.notes.append(f"the model was trained on no {image.kind} images; {found}")
            image = read_or_error(self.reader)(name)
        if isinstance(image, Exception):
            self.left_out.append(LeftOut(name, reason(image, name), unreadable=True))
            return []
        self.kinds.update(image.kinds)
        return [Picture(name, image.pixels, read_header(self.paths[name]).upright)]
