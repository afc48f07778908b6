"""Decoding the images of a listing into one file of pixels, and keeping count on the way."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from foveate._files import replacing
from foveate.data.duplicates import Hashed
from foveate.data.findings import LeftOut
from foveate.data.pixels.decode import reason
from foveate.data.pixels.mask import AmbiguousTurnError, class_pixels
from foveate.data.pixels.reader import Decoded, NeedsRangeError, Reader, read_or_error
from foveate.data.sources.base import TRAIN, DataError, Item, Listing
from foveate.data.sources.mask_folder import MaskFolder
from foveate.data.splitting import interleaved, rows_of

MEMORY_CAP = 2 << 30
"""Bytes of decoded pixels that are kept at hand; beyond it images are decoded as needed."""
PIXELS, PLACES = "images.pixels", "images.places.npy"
MASKS, MASK_PLACES = "masks.pixels", "masks.places.npy"
_CHUNK = 256

Progress = Callable[[int, int], None]


class KeptMask(NamedTuple):
    """The labels of an image: where they are, what they hash to, pixels of each class."""

    place: tuple[int, ...]
    digest: str
    pixels: np.ndarray


class Kept(NamedTuple):
    """An image that was decoded: what it is, where its pixels are, what they hash to."""

    item: Item
    place: tuple[int, ...]
    digest: str
    mask: KeptMask | None = None

    @property
    def hashed(self) -> Hashed:
        return Hashed(self.item.name, self.item.label, self.digest)


class Counted:
    """Tells how many images are done."""

    def __init__(self, progress: Progress | None) -> None:
        self.total, self.done, self.progress = 0, 0, progress

    def __call__(self) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        if self.progress is not None:
            self.progress(self.done, self.total)


class Reading:
    """Decodes items into the file of pixels and remembers what was found on the way."""

    def __init__(self, reader: Reader, file: PixelFile, listing: Listing, advance: Counted) -> None:
        self.reader, self.file, self.listing, self.advance = reader, file, listing, advance
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.tried: set[str] = set()

    def read(self, items: Sequence[Item], most: int | None = None) -> list[Kept]:
        """What is readable of the items, in their order, the first ``most``."""
        kept: list[Kept] = []
        start = 0
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            # Pillow still refuses what is beyond twice its limit; what it warns of is no news here.
            warnings.filterwarnings("ignore", module="PIL")
            while start < len(items) and (most is None or len(kept) < most):
                count = _CHUNK if most is None else min(_CHUNK, most - len(kept))
                chunk = items[start : start + count]
                start += count
                names = [item.name for item in chunk]
                images = pool.map(read_or_error(self.reader), names)
                for item, image in zip(chunk, images, strict=True):
                    self.advance()
                    self._take(item, image, kept)
        return kept

    def _take(self, item: Item, image: Decoded | Exception, kept: list[Kept]) -> None:
        self.tried.add(item.name)
        while isinstance(image, NeedsRangeError):
            if image.kind not in self.reader.ranges:
                names = [other.name for other in self.listing.items]
                self.notes.append(self.reader.find_range(image.kind, names, item.name))
            image = read_or_error(self.reader)(item.name)
        if isinstance(image, Exception):
            self._leave_out(item, image)
            return
        self.kinds.update(image.kinds)
        kept.append(Kept(item, self.file.append(image.pixels), digest(image.pixels)))

    @property
    def fits(self) -> bool:
        """Whether all of it is at hand, decoded."""
        return self.file.fits

    def keep(self, kept: Sequence[Kept]) -> None:
        """Say which images stay, in which order."""
        self.file.keep(image.place for image in kept)

    def _leave_out(self, item: Item, error: Exception) -> None:
        label = None if self.listing.of_parts else self.listing.classes[item.label]
        why = reason(error, item.name)
        self.left_out.append(LeftOut(item.name, why, label, unreadable=True))


class MaskedReading(Reading):
    """The same of images and their masks; an image whose mask cannot be read is left out.

    Raises:
        DataError: from a mask that does not fit its image, or the classes.
    """

    def __init__(
        self,
        reader: Reader,
        file: PixelFile,
        masks: PixelFile,
        source: MaskFolder,
        listing: Listing,
        advance: Counted,
    ) -> None:
        super().__init__(reader, file, listing, advance)
        self.masks, self.source = masks, source

    @property
    def fits(self) -> bool:
        return self.file.fits and self.masks.fits

    def keep(self, kept: Sequence[Kept]) -> None:
        super().keep(kept)
        self.masks.keep(image.mask.place for image in kept if image.mask is not None)

    def _take(self, item: Item, image: Decoded | Exception, kept: list[Kept]) -> None:
        before = len(kept)
        super()._take(item, image, kept)
        if len(kept) == before:
            return
        image = kept.pop()
        try:
            labels, kinds = self.source.read_labels(item.name, image.place[1:3])
        except DataError:
            raise
        except AmbiguousTurnError as error:
            self._leave_out(item, error)
            return
        except Exception as error:
            why = reason(error, self.source.mask_of(item.name))
            self._leave_out(item, ValueError(f"of its mask: {why}"))
            return
        self.kinds.update(kinds)
        pixels = class_pixels(labels, len(self.listing.classes))
        mask = KeptMask(self.masks.append(labels), digest(labels), pixels)
        kept.append(image._replace(mask=mask))


def digest(pixels: np.ndarray) -> str:
    """Tells one image from another: its shape and its pixels."""
    found = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(pixels))
    return found.hexdigest()


class PixelFile:
    """The pixels one after the other, and for each image kept its offset and shape."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.fits = True
        self.places: list[tuple[int, ...]] = []

    @classmethod
    @contextmanager
    def writing(
        cls, directory: Path, names: tuple[str, str] = (PIXELS, PLACES)
    ) -> Iterator[PixelFile]:
        """Files that are whole or absent, of these names."""
        with replacing(directory / names[0]) as file:
            pixels = cls(file)
            yield pixels
            if not pixels.fits:
                file.seek(0)
                file.truncate()
        buffer = io.BytesIO()
        np.save(buffer, np.array(pixels.places, dtype=np.int64).reshape(-1, 4))
        with replacing(directory / names[1]) as file:
            file.write(buffer.getbuffer())

    def append(self, pixels: np.ndarray) -> tuple[int, ...]:
        offset = self.file.tell()
        if self.fits:
            self.file.write(np.ascontiguousarray(pixels).data)
            self.fits = self.file.tell() <= MEMORY_CAP
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        return (offset, *pixels.shape[:2], channels)

    def keep(self, places: Iterable[tuple[int, ...]]) -> None:
        """Say which images stay, in which order."""
        self.places = list(places)


class StoredPixels:
    """What a :class:`PixelFile` holds, by number; opened when it is needed, anew in each process.

    Args:
        directory: where the files are.
        names: of them.
    """

    def __init__(self, directory: Path, names: tuple[str, str] = (PIXELS, PLACES)) -> None:
        self.directory, self.names = directory, names

    def __getitem__(self, index: int) -> np.ndarray:
        offset, height, width, channels = self._places[index]
        flat = self._pixels[offset : offset + height * width * channels]
        return flat.reshape((height, width) if channels == 1 else (height, width, channels))

    def __getstate__(self) -> dict:
        return {"directory": self.directory, "names": self.names}

    @cached_property
    def _places(self) -> np.ndarray:
        return np.load(self.directory / self.names[1])

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self.directory / self.names[0], dtype=np.uint8, mode="r")


def choose(reading: Reading, listing: Listing, limit: int | None) -> dict[str, list[Kept]]:
    """Decoded images by split. With a limit the split comes first, and no more is decoded."""
    if limit is None:
        reading.advance.total = len(listing.items)
        kept = reading.read(listing.items)
        items = [image.item for image in kept]
        return {split: [kept[i] for i in rows] for split, rows in rows_of(items).items()}
    if limit < len(listing.classes) and not listing.of_parts:
        raise DataError(
            f"limit={limit} leaves some of {len(listing.classes)} classes without an image to "
            f"train on; take at least {len(listing.classes)}, and more to learn from"
        )
    wanted = {}
    for split, rows in rows_of(listing.items).items():
        most = limit if split == TRAIN else max(limit // 4, 1)
        items = [listing.items[row] for row in rows]
        if len(items) > most:
            items = [items[i] for i in interleaved([item.label for item in items])]
        wanted[split] = (items, most)
    reading.advance.total = sum(min(len(items), most) for items, most in wanted.values())
    order = {item.name: place for place, item in enumerate(listing.items)}
    return {
        split: sorted(reading.read(items, most), key=lambda kept: order[kept.item.name])
        for split, (items, most) in wanted.items()
    }
