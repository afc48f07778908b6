"""Labelled images ready for training: decoded once, checked, and shared by all processes.

:func:`prepare` reads the images of a source, leaves out what cannot be decoded, splits what is in
one part, and writes the pixels into one file, which every trial maps into its memory. Sets whose
pixels are larger than ``pixel_file.MEMORY_CAP`` are checked all the same and decoded as needed.
What was used, in which order, and what was found is in the record (:mod:`foveate.data.record`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from foveate.arguments import one_of
from foveate.data.annotations.record import Category
from foveate.data.augmentation import (
    Augmentation,
    choose_augmentation,
    choose_pixel_augmentation,
)
from foveate.data.duplicates import find_duplicates
from foveate.data.findings import Duplicates, Findings, printable
from foveate.data.moments import Moments, Sampled, moments
from foveate.data.pixels.cache import ImageCache, cache_directory
from foveate.data.pixels.decode import ValueRange
from foveate.data.pixels.mask import IGNORED
from foveate.data.pixels.pixel_file import (
    MASK_PLACES,
    MASKS,
    PIXELS,
    PLACES,
    Counted,
    Kept,
    MaskedReading,
    PixelFile,
    Progress,
    Reading,
    StoredPixels,
    choose,
)
from foveate.data.pixels.reader import Reader
from foveate.data.record import MaskRecord, SetRecord, SplitRecord
from foveate.data.sources.base import FINAL, SPLITS, TEST, TRAIN, DataError, Item, Listing, Source
from foveate.data.sources.folders import Folder
from foveate.data.sources.mask_folder import MaskFolder
from foveate.data.sources.open import open_source

MARGIN = 1.25
"""Images are kept this much larger than trained on, so that crops do not enlarge them."""
_WHOLE = (1 << 20, 1 << 20)
"""What images with masks are reduced towards: not at all, for a mask is not resampled."""


class Images:
    """One split of a prepared set: ``images[i]`` is uint8, (H, W) or (H, W, 3).

    Attributes:
        labels: the class of each image.
        names: of each image, as its source has it.
    """

    def __init__(self, record: SetRecord, split: str, directory: Path) -> None:
        mine = record.splits[split]
        self.labels, self.names = mine.labels, mine.names
        self._record = record
        self._stored = StoredPixels(directory)
        before = SPLITS[: SPLITS.index(split)]
        self._start = sum(len(record.splits[s].labels) for s in before if s in record.splits)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        if not self.in_memory:
            return self._reader.read(self.names[index]).pixels
        return self._stored[self._start + index]

    def __getstate__(self) -> dict:
        """For a loader's process: what is open here is opened again there."""
        return {key: value for key, value in vars(self).items() if key != "_reader"}

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are at hand, decoded."""
        return self._record.in_memory

    @cached_property
    def _reader(self) -> Reader:
        return _reader(self._record)


class MaskedImages(Images):
    """One split of images with masks; ``mask(i)`` is (H, W), uint8, and 255 counts nowhere."""

    def __init__(self, record: SetRecord, split: str, directory: Path) -> None:
        super().__init__(record, split, directory)
        self._stored_masks = StoredPixels(directory, (MASKS, MASK_PLACES))

    def mask(self, index: int) -> np.ndarray:
        """The labels of an image."""
        if not self.in_memory:
            source = self._reader.source
            assert isinstance(source, MaskFolder)
            size = self[index].shape[:2]
            return source.read_labels(self.names[index], (size[0], size[1]))[0]
        return self._stored_masks[self._start + index]


class AnnotatedImages(Images):
    """One split of images of objects: ``images[i]`` is (H, W, 3), perhaps reduced.

    Attributes:
        annotated: the name of each, its size (height, width) upright before it was reduced, and its
            objects in pixels of that size.
    """

    def __init__(self, record: SetRecord, split: str, directory: Path) -> None:
        super().__init__(record, split, directory)
        self.annotated = record.objects.images[split] if record.objects else []


@dataclass(frozen=True)
class ImageSet:
    """A prepared set.

    Attributes:
        classes: their names, printable.
        channels: 1 or 3.
        augmentation: what ``auto`` comes to, and why.
        moments: mean and standard deviation of the training images.
        findings: what was left out, interpreted and decided; to be said once.
        train: the images to learn from.
        test: the images held out.
        final: images that are kept for the very end, where the set has three parts.
        class_pixels: of each class, in the training masks; None where classes are of images.
        side: height and width towards which images were reduced; None for not at all.
        ranges: of the values of deep images, by kind.
        ignored: the label of pixels of masks that count nowhere; None where classes are of images.
        colors: what the list of classes paints each class of pixels with, if it says.
        categories: where classes are of objects, with the ids that their files call them by.
    """

    classes: list[str]
    channels: int
    augmentation: Augmentation
    moments: Moments
    findings: Findings
    train: Images
    test: Images
    final: Images | None = None
    class_pixels: tuple[int, ...] | None = None
    side: tuple[int, int] | None = None
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)
    ignored: int | None = None
    colors: list[list[int]] | None = None
    categories: tuple[Category, ...] | None = None

    @property
    def of_parts(self) -> bool:
        """Whether classes are of pixels or of objects, so that images have none of their own."""
        return self.class_pixels is not None

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Files that could not be decoded, with the reason."""
        return [{"file": printable(item.name), "reason": item.reason}
                for item in self.findings.left_out if item.unreadable]  # fmt: skip


def prepare(
    directory: Path,
    name: str,
    size: tuple[int, int],
    *,
    root: str | None = None,
    limit: int | None = None,
    duplicates: Literal["keep", "leave_out"] = "keep",
    cache: str = "auto",
    progress: Progress | None = None,
) -> ImageSet:
    """Decode and check a data set once, into ``directory``; a set that lies there is used again.

    Args:
        directory: where pixels and record go.
        name: see :func:`foveate.data.sources.open.open_source`.
        size: height and width to train at; larger images are reduced towards it.
        root: where named data sets lie, or what paths in a list are relative to.
        limit: keep at most this many images for training, and a quarter as many held out; no
            others are decoded.
        duplicates: of images with equal pixels on both sides of the split, ``"leave_out"`` removes
            the one for training. They are counted and named in any case.
        cache: of large images once reduced: ``"auto"``, ``"none"`` or a directory, see
            :func:`foveate.data.pixels.cache.cache_directory`.
        progress: called with the images done and their number.

    Raises:
        DataError: if nothing usable is left, or the images are not those of the record there.
    """
    return _prepare(directory, _Asked(name, size, root, limit, duplicates, cache), progress)


def prepare_masks(
    directory: Path,
    name: str,
    size: tuple[int, int],
    *,
    ignored: int | None = None,
    limit: int | None = None,
    duplicates: Literal["keep", "leave_out"] = "keep",
    progress: Progress | None = None,
) -> ImageSet:
    """The same of images with masks, whose splits are :class:`MaskedImages`, at their own size.

    Args:
        directory: where pixels, labels and record go.
        name: a folder, see :mod:`foveate.data.sources.mask_folder`.
        size: height and width of the crops to train on; images are kept whole.
        ignored: label of pixels that count nowhere, beside 255.
        limit: as for :func:`prepare`.
        duplicates: likewise.
        progress: likewise.

    Raises:
        DataError: likewise; and if an image has no mask, a mask does not fit its image, or a label
            has no class.
    """
    masks = _AskedMasks(ignored)
    return _prepare(directory, _Asked(name, size, None, limit, duplicates, "none", masks), progress)


def _prepare(directory: Path, asked: _Asked, progress: Progress | None) -> ImageSet:
    one_of(asked.duplicates, ("keep", "leave_out"), "duplicates")
    known = SetRecord.read(directory)
    if known is None:
        return _load(directory, _begin(directory, asked, progress))
    if not known.whole:
        restore(directory, known, progress)
    return _with_notes(_load(directory, known), _arrivals(known))


def load(directory: Path) -> ImageSet:
    """The set that :func:`prepare` left in ``directory``."""
    record = SetRecord.read(directory)
    if record is None:
        raise DataError(f"{directory} holds no prepared images")
    return _load(directory, record)


def drop_pixels(directory: Path) -> None:
    """Give back the room of the decoded images; the record of what was used stays."""
    names = (PIXELS, PLACES, MASKS, MASK_PLACES)
    files = [directory / name for name in names if (directory / name).exists()]
    record = SetRecord.read(directory) if files else None
    if record is not None:
        record.whole = False
        record.write(directory)
    for file in files:
        file.unlink()


def loader_processes(images: Images, device: str) -> int:
    """How many processes should prepare batches; the numbers do not depend on it."""
    return 0 if images.in_memory and device == "cpu" else min(8, os.cpu_count() or 1)


def _load(directory: Path, record: SetRecord) -> ImageSet:
    masks = record.masks
    return ImageSet(
        **parts_of(directory, record),
        class_pixels=None if masks is None else tuple(masks.pixels),
        ignored=None if masks is None else IGNORED if masks.ignored is None else masks.ignored,
        colors=None if masks is None else masks.colors,
    )


def parts_of(directory: Path, record: SetRecord) -> dict[str, Any]:
    """What sets of all kinds have, by the names of :class:`ImageSet`."""
    kind = Images if record.masks is None else MaskedImages
    kind = kind if record.objects is None else AnnotatedImages
    return {
        "classes": record.classes,
        "channels": record.channels,
        "augmentation": record.augmentation,
        "moments": record.moments,
        "findings": record.findings,
        "train": kind(record, TRAIN, directory),
        "test": kind(record, TEST, directory),
        "final": kind(record, FINAL, directory) if FINAL in record.splits else None,
        "side": record.side if record.masks is None else None,
        "ranges": record.ranges,
    }


def _reader(record: SetRecord) -> Reader:
    cache = ImageCache(Path(record.cache)) if record.cache else None
    return Reader(_source(record), record.channels, record.side, record.ranges, cache)


def _source(asked: SetRecord | _Asked) -> Source:
    if isinstance(asked, SetRecord) and asked.objects is not None:
        return Folder(asked.objects.folder)
    if asked.masks is not None:
        return MaskFolder(asked.name, asked.masks.ignored)
    return open_source(asked.name, asked.root)


@contextmanager
def _reading(
    directory: Path, reader: Reader, listing: Listing, advance: Counted
) -> Iterator[Reading]:
    """Files of pixels, and of labels where there are masks, that are whole or absent."""
    with PixelFile.writing(directory) as file:
        source = reader.source
        if not isinstance(source, MaskFolder):
            yield Reading(reader, file, listing, advance)
            return
        with PixelFile.writing(directory, (MASKS, MASK_PLACES)) as masks:
            yield MaskedReading(reader, file, masks, source, listing, advance)


def _with_notes(images: ImageSet, notes: list[str]) -> ImageSet:
    findings = replace(images.findings, notes=(*images.findings.notes, *notes))
    return replace(images, findings=findings)


def normalized(found: Moments) -> str:
    """What images are normalised by, in words."""
    mean, std = (", ".join(f"{value:.3f}" for value in part) for part in (found.mean, found.std))
    return (
        f"normalized by mean {mean} and deviation {std}, from {found.images:,} training images, "
        "unless a host states its own"
    )


class _AskedMasks(NamedTuple):
    """What :func:`prepare_masks` has beside."""

    ignored: int | None


class _Asked(NamedTuple):
    """The arguments of :func:`prepare`."""

    name: str
    size: tuple[int, int]
    root: str | None
    limit: int | None
    duplicates: str
    cache: str
    masks: _AskedMasks | None = None


def _begin(directory: Path, asked: _Asked, progress: Progress | None) -> SetRecord:
    """Read a set for the first time, and leave pixels and record."""
    source = _source(asked)
    listing = source.list()
    directory.mkdir(parents=True, exist_ok=True)
    where, complaint = cache_directory(asked.cache)
    side = _WHOLE
    if asked.masks is None:
        side = (round(MARGIN * asked.size[0]), round(MARGIN * asked.size[1]))
    writer = ImageCache(where, writable=True) if where else None
    reader = Reader(source, source.channels, side, {}, writer)
    with _reading(directory, reader, listing, Counted(progress)) as reading:
        chosen = choose(reading, listing, asked.limit)
        _check(source.name, listing, chosen, reading)
        found, unused = duplicates_of(chosen), []
        if asked.duplicates == "leave_out" and found.across:
            found, unused = leave_out_duplicates(chosen, found)
            _check(source.name, listing, chosen, reading, "without duplicates ")
        unlabelled = _unlabelled(source.name, listing.classes, chosen)
        reading.keep([kept for split in SPLITS for kept in chosen.get(split, [])])
    record = SetRecord(
        name=asked.name,
        root=asked.root,
        classes=listing.classes,
        channels=source.channels,
        side=side,
        cache=str(where) if where else None,
        ranges=reader.ranges,
        in_memory=reading.fits,
        whole=True,
        listed=len(listing.items),
        unused=unused,
        splits={split: split_record(kept) for split, kept in chosen.items()},
        masks=_mask_record(source, chosen) if isinstance(source, MaskFolder) else None,
    )
    train = Images(record, TRAIN, directory)
    learning = Sampled(train)
    labels = [train.labels[row] for row in learning.rows]
    record.augmentation = (
        choose_pixel_augmentation(learning, listing.classes)
        if listing.of_parts
        else choose_augmentation(learning, labels, listing.classes)
    )
    record.moments = moments(learning, asked.size, source.channels)
    record.findings = Findings.of(
        [*listing.left_out, *reading.left_out],
        reading.kinds,
        [
            *listing.notes,
            *reading.notes,
            *([complaint] if complaint else []),
            f"augmentation: {record.augmentation.reason}",
            normalized(record.moments),
        ],
        [*listing.warnings, *unlabelled, *_warnings(listing, chosen, reading)],
        found,
    )
    record.write(directory)
    return record


def _check(
    name: str,
    listing: Listing,
    chosen: dict[str, list[Kept]],
    reading: Reading,
    state: str = "",
) -> None:
    """Refuse a set in which a class has too little to learn from or to be held out."""
    skipped = reading.left_out
    bad = (
        f" ({len(skipped)} unreadable, first {printable(skipped[0].name)!r}: {skipped[0].reason})"
        if skipped
        else ""
    )
    if not any(chosen.values()):
        raise DataError(f"no readable image in {name!r}{bad}")
    untried = Counter(item.label for item in listing.items if item.name not in reading.tried)
    learning = Counter(kept.item.label for kept in chosen.get(TRAIN, []))
    given = any(item.split for item in listing.items)
    for label, called in enumerate([] if listing.of_parts else listing.classes):
        held_out = sum(kept.item.label == label for kept in chosen.get(TEST, []))
        if learning[label] or untried[label]:
            continue
        if not given and held_out:
            raise DataError(
                f"class {called!r} has one readable image, but some are held out{bad}: add "
                "images, remove the class, or give separate train and val folders"
            )
        raise DataError(f"{state}class {called!r} has no readable image to train on{bad}".strip())
    for split in {item.split for item in listing.items} - {""} | {TRAIN, TEST}:
        if not chosen.get(split):
            raise DataError(f"{state}no readable image in the {split} part of {name!r}{bad}")


def _unlabelled(name: str, classes: list[str], chosen: dict[str, list[Kept]]) -> list[str]:
    """Classes without a pixel in a split of images with masks, a sentence each.

    Raises:
        DataError: if a split has no pixel that counts.
    """
    said = []
    for split, kept in chosen.items():
        counts = [image.mask.pixels for image in kept if image.mask is not None]
        if not counts:
            continue
        pixels = np.sum(counts, axis=0)
        absent = [called for called, count in zip(classes, pixels, strict=True) if count == 0]
        if len(absent) == len(classes):
            raise DataError(
                f"no pixel in the {split} part of {name!r} counts: its {len(kept):,} masks hold "
                "labels that are ignored alone"
            )
        if absent:
            named = ", ".join(map(repr, absent[:3]))
            more = f" and {len(absent) - 3:,} others" if len(absent) > 3 else ""
            use = "cannot be learnt" if split == TRAIN else "counts only where it is predicted"
            said.append(f"no pixel of {named}{more} in the {split} part: such a class {use}")
    return said


def _warnings(listing: Listing, chosen: dict[str, list[Kept]], reading: Reading) -> list[str]:
    lost: Counter[str] = Counter()
    for item in (*listing.left_out, *reading.left_out):
        if item.label is not None:
            lost[printable(item.label)] += item.count
    found = _lost_classes(listing, reading, lost) if not listing.of_parts else []
    count = sum(map(len, chosen.values()))
    if reading.kinds["blank"] > count / 2:
        found.append("most images are of one color throughout once they are read")
    return found


def _lost_classes(listing: Listing, reading: Reading, lost: Counter[str]) -> list[str]:
    unreadable = {item.name for item in reading.left_out}
    there = Counter(listing.classes[i.label] for i in listing.items if i.name not in unreadable)
    return [
        f"class {name!r} lost most of its images: {lost[name]:,} of "
        f"{lost[name] + there[name]:,} are left out"
        for name in listing.classes
        if lost[name] > there[name]
    ]


# Duplicates


def duplicates_of(chosen: dict[str, list[Kept]]) -> Duplicates:
    """Images with equal pixels, on both sides of the split and within it."""
    held_out = [kept.hashed for split in (TEST, FINAL) for kept in chosen.get(split, [])]
    return find_duplicates([kept.hashed for kept in chosen[TRAIN]], held_out)


def leave_out_duplicates(
    chosen: dict[str, list[Kept]], found: Duplicates
) -> tuple[Duplicates, list[str]]:
    """Remove the training images that are held out as well; returns what was found, and those."""
    held_out = {kept.digest for split in (TEST, FINAL) for kept in chosen.get(split, [])}
    removed = [kept.item.name for kept in chosen[TRAIN] if kept.digest in held_out]
    chosen[TRAIN] = [kept for kept in chosen[TRAIN] if kept.digest not in held_out]
    return replace(found, removed=len(removed)), removed


# The record


def split_record(kept: list[Kept]) -> SplitRecord:
    """What the record keeps of a split."""
    return SplitRecord(
        [image.item.label for image in kept],
        [image.item.name for image in kept],
        [image.digest for image in kept],
    )


def _mask_record(source: MaskFolder, chosen: dict[str, list[Kept]]) -> MaskRecord:
    learning = [kept.mask.pixels for kept in chosen[TRAIN] if kept.mask is not None]
    digests = {
        split: [image.mask.digest for image in kept if image.mask is not None]
        for split, kept in chosen.items()
    }
    colors = source.colors and [list(color) for color in source.colors]
    return MaskRecord(source.ignored, np.sum(learning, axis=0).tolist(), digests, colors)


def restore(directory: Path, record: SetRecord, progress: Progress | None) -> None:
    """Bring back the pixels of a record, image by image, and see that they are the same.

    Raises:
        DataError: if they are not, or cannot be read any more.
    """
    items = [
        Item(name, label, split)
        for split in SPLITS
        if split in record.splits
        for name, label in zip(record.splits[split].names, record.splits[split].labels, strict=True)
    ]
    digests = [d for s in SPLITS if s in record.splits for d in record.splits[s].digests]
    advance = Counted(progress)
    advance.total = len(items)
    listing = Listing(record.classes, items, of_parts=record.of_parts)
    with _reading(directory, _reader(record), listing, advance) as reading:
        kept = reading.read(items)
        if reading.left_out:
            gone = reading.left_out
            raise DataError(
                f"{len(gone):,} of the images of {record.name!r} that the study began with cannot "
                f"be read any more, first {printable(gone[0].name)!r} ({gone[0].reason})"
            )
        of_masks = record.masks.all_digests if record.masks else [None] * len(digests)
        for image, *before in zip(kept, digests, of_masks, strict=True):
            if [image.digest, image.mask and image.mask.digest] != before:
                raise DataError(
                    f"the images of {record.name!r} are no longer those that the study began with: "
                    f"{printable(image.item.name)!r} has changed"
                )
        reading.keep(kept)
    record.in_memory, record.whole = reading.fits, True
    record.write(directory)


def _arrivals(record: SetRecord) -> list[str]:
    """A note on files that came since the study began; they are not used."""
    try:
        source = _source(record)
        if not source.grows:
            return []
        items = source.list().items
    except DataError:
        return []  # the pixels are at hand
    more = len(items) - record.listed
    if more <= 0:
        return []
    known = {name for split in record.splits.values() for name in split.names}
    known |= {item.name for item in record.findings.left_out} | set(record.unused)
    new = [item.name for item in items if item.name not in known]
    first = f", such as {printable(new[0])!r}" if len(new) == more else ""
    return [f"{more:,} images came to {record.name!r} since the study began{first}; not used"]
