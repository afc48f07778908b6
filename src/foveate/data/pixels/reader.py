"""Images of a set by name, as training takes them: 8 bits, reduced, from the cache where it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from foveate.data.findings import images_of
from foveate.data.moments import sample
from foveate.data.pixels.cache import ImageCache
from foveate.data.pixels.decode import (
    NeedsRangeError,
    ValueRange,
    depth,
    extremes,
    to_8_bits,
    value_range,
)
from foveate.data.sources.base import DataError, Source

_RANGE_SAMPLE = 256
_WORTH_CACHING = 4


class Decoded(NamedTuple):
    """An image and what reading it took.

    Attributes:
        pixels: uint8, (H, W) or (H, W, 3).
        kinds: see :data:`foveate.data.findings.KINDS`.
    """

    pixels: np.ndarray
    kinds: tuple[str, ...]


@dataclass
class Reader:
    """Reads the images of a source.

    Attributes:
        source: where they come from.
        channels: 1 or 3.
        side: height and width that images are reduced towards, never below.
        ranges: of the values of deep images, by kind.
        cache: of reduced images, if there is one.
    """

    source: Source
    channels: int
    side: tuple[int, int]
    ranges: dict[str, ValueRange] = field(default_factory=dict)
    cache: ImageCache | None = None

    def read(self, name: str) -> Decoded:
        """One image; any exception but ``NeedsRangeError`` means that it is unreadable."""
        fingerprint = self.source.fingerprint(name) if self.cache else None
        if self.cache is None or fingerprint is None:
            return self._decode(name)[0]
        key = self.cache.key(fingerprint, self.side, str(self.channels))
        found = self.cache.get(key)
        if found is not None:
            return Decoded(*found)
        decoded, worth_caching = self._decode(name)
        if worth_caching:
            self.cache.put(key, *decoded)
        return decoded

    def find_range(self, kind: str, names: Sequence[str], first: str) -> str:
        """Settle the range of a kind of deep images from a sample; returns it in a sentence."""
        found = []
        for name in {first, *(names[i] for i in sample(len(names), _RANGE_SAMPLE))}:
            try:
                image = self.source.read(name).image
            except Exception:  # it is left out, with its reason, when its turn comes
                continue
            if depth(image) == kind and (met := extremes(image)) is not None:
                found.append(met)
        low = min((low for low, _ in found), default=0.0)
        high = max((high for _, high in found), default=1.0)
        self.ranges[kind] = value_range(kind, low, high)
        low, high = self.ranges[kind]
        return (
            f"{kind} values {low:g} to {high:g} are read as 0 to 255 (from {images_of(len(found))})"
        )

    def _decode(self, name: str) -> tuple[Decoded, bool]:
        raw = self.source.read(name, self.side)
        if raw.image.width == 0 or raw.image.height == 0:
            raise DataError("an image without pixels")
        deep = depth(raw.image) is not None
        image, kinds = to_8_bits(raw, self.channels, self.ranges)
        pixels = np.asarray(reduce(image, self.side))
        if pixels.min() == pixels.max():
            kinds = (*kinds, "blank")
        area = pixels.shape[0] * pixels.shape[1]
        return Decoded(pixels, kinds), not deep and raw.pixels >= _WORTH_CACHING * area


def reduce(image: Image.Image, side: tuple[int, int]) -> Image.Image:
    """Shrink until the image just covers ``side`` (height, width), if that at least halves it.

    A smaller reduction costs as much as the transform that follows and saves little room.
    """
    scale = max(side[0] / image.height, side[1] / image.width)
    if scale > 0.5:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def read_or_error(reader: Reader) -> Callable[[str], Decoded | Exception]:
    """For a pool of threads: the image, or why there is none."""

    def read(name: str) -> Decoded | Exception:
        try:
            return reader.read(name)
        except Exception as error:
            return error

    return read


__all__ = ["Decoded", "NeedsRangeError", "Reader", "read_or_error", "reduce"]
