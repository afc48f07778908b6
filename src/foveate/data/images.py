"""Labelled images ready for training: decoded once, checked, and shared by all processes.

:func:`prepare` reads every image of a source, skips what cannot be decoded, splits what is in one
part, and writes the pixels into one file a part, which every trial maps into its memory. Sets
whose pixels are larger than :data:`MEMORY_CAP` are checked all the same and decoded as needed.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from foveate._files import read_json, replacing, write_json
from foveate.data.sources import SPLITS, WHOLE, DataError, Source, open_source

HELD_OUT = 0.2
"""The part of a set in one tree that is not trained on."""
MEMORY_CAP = 2 << 30
MARGIN = 1.25
"""Images are kept this much larger than trained on, so that crops do not enlarge them."""
_INDEX = "index.json"


@dataclass
class Images:
    """One split of a prepared set: ``images[i]`` is uint8, (H, W) or (H, W, 3).

    Attributes:
        labels: the class of each image.
    """

    labels: list[int]
    _part: str
    _rows: list[int]
    _directory: Path
    _source: tuple[str, str | None] | None = field(default=None)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        row = self._rows[index]
        if self._source is not None:
            return np.asarray(self._reader.read(self._part, row))
        offset, *shape = self._places[row]
        return self._pixels[offset : offset + int(np.prod(shape))].reshape(shape).squeeze()

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are at hand, decoded."""
        return self._source is None

    @cached_property
    def _reader(self) -> Source:
        return open_source(*(self._source or ("", None)))

    @cached_property
    def _places(self) -> np.ndarray:
        return np.load(self._directory / f"{self._part}.places.npy")

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self._directory / f"{self._part}.pixels", dtype=np.uint8, mode="r")


@dataclass(frozen=True)
class ImageSet:
    """A prepared set.

    Attributes:
        classes: their names.
        channels: 1 or 3.
        photographs: whether flips and colour changes leave the class as it is.
        skipped: files that could not be decoded, with the reason.
        train: the images to learn from.
        test: the images held out.
    """

    classes: list[str]
    channels: int
    photographs: bool
    skipped: list[dict[str, str]]
    train: Images
    test: Images


def prepare(
    directory: Path,
    name: str,
    size: tuple[int, int],
    *,
    root: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Decode and check a data set once, into ``directory``; a set that lies there is used again.

    Args:
        directory: where pixels and index go.
        name: see :func:`foveate.data.sources.open_source`.
        size: height and width to train at; larger images are reduced towards it.
        root: where named data sets lie.
        limit: keep at most this many images for training, and a quarter as many held out.
        progress: called with the images done and their number.

    Raises:
        DataError: if nothing usable is left, or the images are not those of the index there.
    """
    index_file = directory / _INDEX
    known = read_json(index_file) if index_file.exists() else None
    if known is not None and known["whole"]:
        return load(directory)
    source = open_source(name, root)
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(map(len, source.labels.values()))
    pass_on = _Counter(total, progress)
    side = [round(MARGIN * extent) for extent in size]
    in_memory = True
    skipped: list[dict[str, str]] = []
    kept: dict[str, list[int]] = {}
    for part in source.labels:
        kept[part], fits = _decode(directory, source, part, side, skipped, pass_on)
        in_memory = in_memory and fits
    _check(source, kept, skipped)
    index = {
        "name": name,
        "root": root,
        "classes": source.classes,
        "channels": source.channels,
        "photographs": source.photographs,
        "in_memory": in_memory,
        "skipped": skipped,
        "digest": _digest(directory, source, kept),
        **_split(source, kept, limit),
    }
    if known is not None and known["digest"] != index["digest"]:
        raise DataError(f"the images of {name!r} are no longer those that the study began with")
    write_json(index_file, {**index, "whole": True})
    return load(directory)


def load(directory: Path) -> ImageSet:
    """The set that :func:`prepare` left in ``directory``."""
    index = read_json(directory / _INDEX)
    source = None if index["in_memory"] else (index["name"], index["root"])
    train, test = (
        Images(
            index[split]["labels"], index[split]["part"], index[split]["rows"], directory, source
        )
        for split in SPLITS
    )
    return ImageSet(
        index["classes"], index["channels"], index["photographs"], index["skipped"], train, test
    )


def drop_pixels(directory: Path) -> None:
    """Give back the room of the decoded images; the index of what was used stays."""
    index_file = directory / _INDEX
    if index_file.exists():
        write_json(index_file, {**read_json(index_file), "whole": False})
        for file in [*directory.glob("*.pixels"), *directory.glob("*.places.npy")]:
            file.unlink()


def _digest(directory: Path, source: Source, kept: dict[str, list[int]]) -> str:
    """Tells one set of images from another: names and, where they are kept, pixels."""
    digest = hashlib.blake2b(digest_size=16)
    for part, rows in kept.items():
        digest.update("\n".join(source.describe(part, row) for row in rows).encode())
        with open(directory / f"{part}.pixels", "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


class _Counter:
    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.total, self.done, self.progress = total, 0, progress

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _decode(
    directory: Path,
    source: Source,
    part: str,
    side: Sequence[int],
    skipped: list[dict[str, str]],
    advance: Callable[[], None],
) -> tuple[list[int], bool]:
    """Decode a part into its file; returns the readable rows and whether the pixels fitted."""

    def read(row: int) -> np.ndarray | Exception:
        try:
            return np.asarray(_reduce(source.read(part, row), side))
        except Exception as error:
            return error

    rows = range(len(source.labels[part]))
    places = np.zeros((len(rows), 4), dtype=np.int64)
    kept: list[int] = []
    with replacing(directory / f"{part}.pixels") as file, ThreadPoolExecutor() as pool:
        for chunk in (rows[i : i + 256] for i in range(0, len(rows), 256)):
            for row, image in zip(chunk, pool.map(read, chunk), strict=True):
                advance()
                if isinstance(image, Exception):
                    reason = _reason(image)
                    skipped.append({"file": source.describe(part, row), "reason": reason})
                    continue
                kept.append(row)
                places[row] = _append(file, image)
        fits = file.tell() <= MEMORY_CAP
        if not fits:
            file.truncate(0)
    buffer = io.BytesIO()
    np.save(buffer, places)
    with replacing(directory / f"{part}.places.npy") as file:
        file.write(buffer.getbuffer())
    return kept, fits


def _append(file: BinaryIO, image: np.ndarray) -> list[int]:
    offset = file.tell()
    if offset <= MEMORY_CAP:
        file.write(np.ascontiguousarray(image).tobytes())
    channels = image.shape[2] if image.ndim == 3 else 1
    return [offset, *image.shape[:2], channels]


def _reduce(image: Image.Image, side: Sequence[int]) -> Image.Image:
    """Shrink, never enlarge, until the image just covers ``side`` (height, width)."""
    scale = max(side[0] / image.height, side[1] / image.width)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "not an image" if "cannot identify image file" in text else text or repr(error)


def _check(source: Source, kept: dict[str, list[int]], skipped: list[dict[str, str]]) -> None:
    """Refuse a set in which a class has too little to learn from or to be held out."""
    bad = f" ({len(skipped)} unreadable, first {skipped[0]['file']!r})" if skipped else ""
    if not any(kept.values()):
        raise DataError(f"no readable image in {source.name!r}{bad}")
    for part, rows in kept.items():
        if not rows:
            raise DataError(f"no readable image in the {part} part of {source.name!r}{bad}")
        if part == "test":
            continue
        counts = Counter(source.labels[part][row] for row in rows)
        for label, name in enumerate(source.classes):
            if counts[label] == 0:
                raise DataError(f"class {name!r} has no readable image{bad}")
            if counts[label] == 1 and part == WHOLE:
                raise DataError(
                    f"class {name!r} has one readable image, but some are held out{bad}: add "
                    "images, remove the class, or give separate train and val folders"
                )


def _split(source: Source, kept: dict[str, list[int]], limit: int | None) -> dict[str, Any]:
    parts = {}
    if WHOLE in kept:
        labels = [source.labels[WHOLE][row] for row in kept[WHOLE]]
        for split, chosen in zip(SPLITS, stratified_split(labels), strict=True):
            parts[split] = (WHOLE, [kept[WHOLE][i] for i in chosen])
    else:
        parts = {split: (split, kept[split]) for split in SPLITS}
    if limit is not None:
        for split, most in (("train", limit), ("test", max(limit // 4, 1))):
            part, rows = parts[split]
            parts[split] = (part, _subset(rows, [source.labels[part][r] for r in rows], most))
    return {
        split: {"part": part, "rows": rows, "labels": [source.labels[part][r] for r in rows]}
        for split, (part, rows) in parts.items()
    }


def _subset(rows: list[int], labels: list[int], most: int) -> list[int]:
    if len(rows) <= most:
        return rows
    order = _interleaved(labels)
    return sorted(rows[i] for i in order[:most])


def _interleaved(labels: list[int]) -> list[int]:
    """Indices that take the classes in turn, each in an order that depends on the labels only."""
    rng = np.random.default_rng(0)
    turn = np.empty(len(labels))
    array = np.asarray(labels)
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        turn[rng.permutation(members)] = np.arange(len(members)) / len(members)
    return np.argsort(turn, kind="stable").tolist()


def stratified_split(
    labels: Sequence[int], held_out: float = HELD_OUT
) -> tuple[list[int], list[int]]:
    """Indices of two parts with each class in proportion; a function of the labels alone."""
    rng = np.random.default_rng(0)
    parts: tuple[list[int], list[int]] = ([], [])
    array = np.asarray(labels)
    for label in np.unique(array):
        members = rng.permutation(np.flatnonzero(array == label))
        count = max(1, round(len(members) * held_out))
        parts[0].extend(members[count:].tolist())
        parts[1].extend(members[:count].tolist())
    return sorted(parts[0]), sorted(parts[1])


def loader_processes(images: Images, device: str) -> int:
    """How many processes should prepare batches; the numbers do not depend on it."""
    return 0 if images.in_memory and device == "cpu" else min(8, os.cpu_count() or 1)
