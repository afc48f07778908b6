"""Images and the objects in them, ready for training: read once, checked, and counted.

:func:`prepare_detection` reads annotations of any kind and decodes every image once, by the reader
that classification has: upright, in 8 bits, in RGB, reduced where it is much larger than trained
on. Boxes follow. The pixels lie in one file that all processes map; sets that are larger than
``pixel_file.MEMORY_CAP`` are decoded as needed. What is not used is in the findings, with its
reason, and so is what was decided.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from foveate.arguments import one_of
from foveate.data.annotations.fitting import Fitting
from foveate.data.annotations.open import open_annotations
from foveate.data.annotations.record import AnnotatedImage, Annotations, Category, Objects
from foveate.data.augmentation import Augmentation, choose_mirror
from foveate.data.detection_record import ObjectRecord
from foveate.data.findings import Duplicates, Findings, LeftOut, images_of, printable
from foveate.data.images import (
    MARGIN,
    AnnotatedImages,
    ImageSet,
    duplicates_of,
    leave_out_duplicates,
    normalized,
    parts_of,
    restore,
    split_record,
)
from foveate.data.moments import Sampled, moments, sample
from foveate.data.pixels.cache import ImageCache, cache_directory
from foveate.data.pixels.decode import read_header, reason
from foveate.data.pixels.pixel_file import Counted, PixelFile, Progress, Reading, choose
from foveate.data.pixels.reader import Reader
from foveate.data.record import SetRecord
from foveate.data.sources.base import SPLITS, TEST, TRAIN, DataError, Item, Listing, settle_splits
from foveate.data.sources.folders import Folder

Masks = Literal["none", "given", "ellipse", "rectangle"]
MASKS = ("none", "given", "ellipse", "rectangle")
_SAMPLE = 2000


@dataclass(frozen=True)
class DetectionSet(ImageSet):
    """A prepared set, whose splits are :class:`~foveate.data.images.AnnotatedImages`.

    Attributes:
        categories: the classes, in the order of labels, with the ids that their files call them by.
        masks: where masks come from, see :func:`prepare_detection`.
    """

    categories: tuple[Category, ...] = ()
    masks: Masks = "none"

    @property
    def of_parts(self) -> bool:
        return True

    @property
    def mirror(self) -> bool:
        """Whether training images are mirrored left to right."""
        return self.augmentation.mirror


def prepare_detection(
    directory: Path,
    name: str,
    size: tuple[int, int],
    *,
    root: str | None = None,
    masks: Masks = "none",
    limit: int | None = None,
    duplicates: Literal["keep", "leave_out"] = "keep",
    cache: str = "auto",
    progress: Progress | None = None,
) -> DetectionSet:
    """Read, decode and check a set of annotated images; one that lies there is used again.

    Args:
        directory: where pixels and record go.
        name: see :func:`foveate.data.annotations.open.open_annotations`.
        size: height and width to train at; larger images are reduced towards it.
        root: the folder below which the images of a COCO file lie, where it is not the file's own.
        masks: of objects: ``"given"`` with the annotations, or drawn as an ``"ellipse"`` or a
            ``"rectangle"`` that fills the box.
        limit: keep at most this many images for training, and a quarter as many held out; no
            others are decoded.
        duplicates: of images with equal pixels on both sides of the split, ``"leave_out"`` removes
            the one for training. They are counted and named in any case.
        cache: of large images once reduced, see :func:`foveate.data.pixels.cache.cache_directory`.
        progress: called with the images done and their number.

    Raises:
        DataError: if annotations cannot be understood, nothing usable is left, or the images are
            not those of the record there.
    """
    one_of(masks, MASKS, "masks")
    one_of(duplicates, ("keep", "leave_out"), "duplicates")
    record = _record(directory)
    if record is None:
        asked = _Asked(name, size, root, masks, limit, duplicates, cache)
        record = _begin(directory, asked, progress)
    elif (known := record.objects) is not None and known.masks != masks:
        raise DataError(f"{directory} was prepared with masks={known.masks!r}, not {masks!r}")
    elif not record.whole:
        restore(directory, record, progress)
    return _load(directory, record)


def load_detection(directory: Path) -> DetectionSet:
    """The set that :func:`prepare_detection` left in ``directory``."""
    record = _record(directory)
    if record is None:
        raise DataError(f"{directory} holds no prepared images with annotations")
    return _load(directory, record)


def _record(directory: Path) -> SetRecord | None:
    record = SetRecord.read(directory)
    if record is not None and record.objects is None:
        raise DataError(f"the images in {directory} were prepared without objects")
    return record


def _load(directory: Path, record: SetRecord) -> DetectionSet:
    objects = record.objects
    masks: Any = "none" if objects is None else objects.masks
    categories = () if objects is None else objects.categories
    return DetectionSet(**parts_of(directory, record), categories=categories, masks=masks)


class _Asked(NamedTuple):
    """The arguments of :func:`prepare_detection`."""

    name: str
    size: tuple[int, int]
    root: str | None
    masks: Masks
    limit: int | None
    duplicates: str
    cache: str


def _begin(directory: Path, asked: _Asked, progress: Progress | None) -> SetRecord:
    """Read a set for the first time, and leave pixels and record."""
    name, size, masks = asked.name, asked.size, asked.masks
    annotations, where = open_annotations(name, asked.root, masks=masks == "given")
    fitting = Fitting()
    fitted = _fit(annotations, where, fitting)
    _check_fitted(name, annotations, fitted, fitting)
    listing = _listing(annotations, fitted, name)
    side = (round(MARGIN * size[0]), round(MARGIN * size[1]))
    store, complaint = cache_directory(asked.cache)
    writer = ImageCache(store, writable=True) if store else None
    reader = Reader(Folder(str(where)), 3, side, cache=writer)
    directory.mkdir(parents=True, exist_ok=True)
    with PixelFile.writing(directory) as file:
        reading = Reading(reader, file, listing, Counted(progress))
        chosen = choose(reading, listing, asked.limit)
        equal = duplicates_of(chosen) if chosen.get(TRAIN) else Duplicates()
        equal, unused = replace(equal, conflicting=0), []  # of images, which have no class
        if asked.duplicates == "leave_out" and equal.across:
            equal, unused = leave_out_duplicates(chosen, equal)
        reading.keep([kept for split in SPLITS for kept in chosen.get(split, [])])
    record = SetRecord(
        name=name,
        root=asked.root,
        classes=listing.classes,
        channels=3,
        side=side,
        cache=str(store) if store else None,
        ranges=reader.ranges,
        in_memory=reading.fits,
        whole=True,
        listed=len(listing.items),
        unused=unused,
        splits={split: split_record(kept) for split, kept in chosen.items()},
        objects=ObjectRecord(
            str(where.absolute()),
            annotations.categories,
            masks,
            {split: [fitted[kept.item.name] for kept in of] for split, of in chosen.items()},
        ),
    )
    splits = {split: AnnotatedImages(record, split, directory) for split in chosen}
    _check(name, splits, listing, reading)
    record.augmentation = _mirror(splits[TRAIN], record.classes)
    record.moments = moments(Sampled(splits[TRAIN]), size, 3)
    record.findings = Findings.of(
        [*annotations.left_out, *fitting.left_out, *reading.left_out],
        reading.kinds,
        [
            *annotations.notes,
            *fitting.notes(),
            *listing.notes,
            *reading.notes,
            *([complaint] if complaint else []),
            *_background(splits),
            f"augmentation: {record.augmentation.reason}",
            normalized(record.moments),
            *([f"masks are drawn from the boxes: {masks}"] if masks in MASKS[2:] else []),
        ],
        [
            *annotations.warnings,
            *fitting.warnings(),
            *_warnings(splits, record, annotations, len(reading.left_out)),
        ],
        equal,
    )
    record.write(directory)
    return record


def _fit(annotations: Annotations, root: Path, fitting: Fitting) -> dict[str, AnnotatedImage]:
    """Images whose file has a header, with their objects in its pixels, by name."""
    fitted = {}
    for image in annotations.images:
        try:
            header = read_header(root / image.name)
        except Exception as error:
            why = reason(error, image.name)
            fitting.left_out.append(LeftOut(image.name, why, unreadable=True))
            continue
        if (placed := fitting.fit(image, header)) is not None:
            fitted[image.name] = placed
    return fitted


def _check_fitted(
    name: str, annotations: Annotations, fitted: dict[str, AnnotatedImage], fitting: Fitting
) -> None:
    """Refuse a set of which a part is lost, before another takes its place."""
    there = {image.split for image in fitted.values()}
    for split in sorted({image.split for image in annotations.images} - there):
        lost = [image.name for image in annotations.images if image.split == split]
        first = next(left for left in fitting.left_out if left.name in lost)
        raise DataError(
            f"no usable image in {f'the {split} part of ' if split else ''}{name!r}: all "
            f"{len(lost):,} are left out, such as {printable(first.name)!r} ({first.reason})"
        )


def _listing(annotations: Annotations, fitted: dict[str, AnnotatedImage], name: str) -> Listing:
    """The images as items, each under its rarest class, by which a split that is ours is made."""
    count = len(annotations.categories)
    total = np.bincount(
        np.concatenate([image.objects.labels for image in fitted.values()] or [[]]).astype(int),
        minlength=count,
    )
    items = [
        Item(image.name, _rarest(image.objects, total), image.split) for image in fitted.values()
    ]
    notes: list[str] = []
    if items:
        items = settle_splits(items, notes, repr(name))
        if not any(item.split for item in items) and not notes:
            notes.append(f"{name!r} has no splits; a fifth of it is held out")
    classes = [printable(category.name) for category in annotations.categories]
    return Listing(classes, items, notes=notes, of_parts=True)


def _rarest(objects: Objects, total: np.ndarray) -> int:
    if len(objects) == 0:
        return len(total)
    return min(np.unique(objects.labels).tolist(), key=lambda label: total[label])


def _check(
    name: str, splits: dict[str, AnnotatedImages], listing: Listing, reading: Reading
) -> None:
    """Refuse a set without an image or an object to learn from or to be held out."""
    gone = f" ({len(reading.left_out):,} unreadable)" if reading.left_out else ""
    for split in {item.split for item in listing.items} - {""} | {TRAIN, TEST}:
        images = splits.get(split)
        if not images:
            raise DataError(f"no readable image in the {split} part of {name!r}{gone}")
        if not any((~image.objects.crowd).any() for image in images.annotated):
            raise DataError(
                f"no object in the {split} part of {name!r}: its {len(images):,} images are all "
                "without a usable box"
            )


def _background(splits: dict[str, AnnotatedImages]) -> list[str]:
    said = []
    for split, images in splits.items():
        empty = sum(len(image.objects) == 0 for image in images.annotated)
        if empty:
            use = "learnt from as background" if split == TRAIN else "any detection there is wrong"
            said.append(f"{images_of(empty)} of the {split} part without an object: {use}")
    crowd = sum(int(image.objects.crowd.sum()) for image in splits[TRAIN].annotated)
    if crowd:
        said.append(f"{crowd:,} crowd regions of the train part are not learnt from")
    return said


def _warnings(
    splits: dict[str, AnnotatedImages], record: SetRecord, annotations: Annotations, unread: int
) -> list[str]:
    """What to look at first; images that a limit leaves aside are not lost."""
    found = []
    for split in splits:
        counts = [] if record.objects is None else record.objects.count(split).sum(0)
        absent = [name for name, n in zip(record.classes, counts, strict=True) if n == 0]
        if absent:
            use = "it cannot be learnt" if split == TRAIN else "its AP is undefined and left out"
            more = f" and {len(absent) - 3:,} others" if len(absent) > 3 else ""
            named = ", ".join(map(repr, absent[:3]))
            found.append(f"no object of {named}{more} in the {split} part: {use}")
    read = record.listed - unread
    lost = len({image.name for image in annotations.images}) - read
    if lost > read:
        found.append(f"most images are left out: {lost:,} of {lost + read:,}")
    return found


# What is decided from the images


def _mirror(images: AnnotatedImages, classes: list[str]) -> Augmentation:
    """By the rule of classification, on the objects cut out."""
    where = [
        (number, row)
        for number, image in enumerate(images.annotated)
        for row in np.flatnonzero(~image.objects.crowd).tolist()
    ]
    picked = [where[i] for i in sample(len(where), _SAMPLE)]
    crops, labels = [], []
    for number, row in picked:
        image = images.annotated[number]
        crops.append(_crop(images[number], image, row))
        labels.append(int(image.objects.labels[row]))
    there = Counter(labels)
    names = [name for label, name in enumerate(classes) if there[label]]
    dense = {label: place for place, label in enumerate(sorted(there))}
    mirror, why = choose_mirror(crops, [dense[label] for label in labels], names)
    reason = f"changes of size and place, {'mirrored' if mirror else 'not mirrored'}, {why}"
    return Augmentation("photo", mirror, reason)


def _crop(pixels: np.ndarray, image: AnnotatedImage, row: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    y, x = height / image.size[0], width / image.size[1]
    x1, y1, x2, y2 = image.objects.boxes[row] * (x, y, x, y)
    left, top = min(int(x1), width - 1), min(int(y1), height - 1)
    right, bottom = max(round(x2), left + 1), max(round(y2), top + 1)
    return np.ascontiguousarray(pixels[top:bottom, left:right])
