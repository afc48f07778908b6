"""Images and the objects in them, ready for training: read once, checked, and counted.

:func:`prepare_detection` reads annotations of any kind and decodes every image once, by the reader
that classification has: upright, in 8 bits, in RGB, reduced where it is much larger than trained
on. Boxes follow. The pixels lie in one file that all processes map; sets that are larger than
``pixel_file.MEMORY_CAP`` are decoded as needed. What is not used is in the findings, with its
reason, and so is what was decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from foveate.arguments import one_of
from foveate.data.annotations.fitting import Fitting
from foveate.data.annotations.open import open_annotations
from foveate.data.annotations.record import AnnotatedImage, Annotations, Category, Objects
from foveate.data.augmentation import choose_mirror
from foveate.data.detection_record import DetectionRecord
from foveate.data.findings import Duplicates, Findings, LeftOut, images_of, printable
from foveate.data.images import MARGIN
from foveate.data.moments import Moments, Sampled, moments, sample
from foveate.data.pixels.cache import ImageCache, cache_directory
from foveate.data.pixels.decode import ValueRange, read_header, reason
from foveate.data.pixels.pixel_file import (
    PIXELS,
    Counted,
    PixelFile,
    Progress,
    Reading,
    StoredPixels,
    choose,
)
from foveate.data.pixels.reader import Reader
from foveate.data.sources.base import (
    FINAL,
    SPLITS,
    TEST,
    TRAIN,
    DataError,
    Item,
    Listing,
    settle_splits,
)
from foveate.data.sources.folders import Folder

Masks = Literal["none", "given", "ellipse", "rectangle"]
MASKS = ("none", "given", "ellipse", "rectangle")
_SAMPLE = 2000
_NOTHING = "(no object)"


class DetectionImages:
    """One split of a prepared set: ``images[i]`` is uint8, (H, W, 3), perhaps reduced.

    Attributes:
        annotated: the name of each, its size (height, width) upright before it was reduced, and its
            objects in pixels of that size.
    """

    def __init__(
        self,
        annotated: list[AnnotatedImage],
        record: DetectionRecord,
        directory: Path,
        start: int | None,
    ) -> None:
        self.annotated = annotated
        self._record, self._start = record, start
        self._stored = StoredPixels(directory)

    def __len__(self) -> int:
        return len(self.annotated)

    def __getitem__(self, index: int) -> np.ndarray:
        if self._start is None:
            return self._reader.read(self.annotated[index].name).pixels
        return self._stored[self._start + index]

    def __getstate__(self) -> dict:
        """For a loader's process: what is open here is opened again there."""
        return {key: value for key, value in vars(self).items() if key != "_reader"}

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are at hand, decoded."""
        return self._start is not None

    @cached_property
    def _reader(self) -> Reader:
        return _reader(self._record)


@dataclass(frozen=True)
class DetectionSet:
    """A prepared set.

    Attributes:
        categories: the classes, in the order of labels, with the ids that their files call them by.
        masks: where masks come from, see :func:`prepare_detection`.
        mirror: whether training images are mirrored left to right.
        moments: mean and standard deviation of the training images.
        findings: what was left out, interpreted and decided; to be said once.
        train: the images to learn from.
        test: the images held out.
        final: images that are kept for the very end, where the set has three parts.
        side: height and width towards which images were reduced.
        ranges: of the values of deep images, by kind.
    """

    categories: tuple[Category, ...]
    masks: Masks
    mirror: bool
    moments: Moments
    findings: Findings
    train: DetectionImages
    test: DetectionImages
    final: DetectionImages | None = None
    side: tuple[int, int] | None = None
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, printable."""
        return [printable(category.name) for category in self.categories]


def prepare_detection(
    directory: Path,
    name: str,
    size: tuple[int, int],
    *,
    root: str | None = None,
    masks: Masks = "none",
    limit: int | None = None,
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
        limit: keep at most this many images for training, and a quarter as many held out.
        cache: of large images once reduced, see :func:`foveate.data.pixels.cache.cache_directory`.
        progress: called with the images done and their number.

    Raises:
        DataError: if annotations cannot be understood, nothing usable is left, or the images are
            not those of the record there.
    """
    one_of(masks, MASKS, "masks")
    record = DetectionRecord.read(directory)
    if record is None:
        asked = _Asked(name, size, root, masks, limit, cache)
        record = _begin(directory, asked, progress)
    elif record.masks != masks:
        raise DataError(f"{directory} was prepared with masks={record.masks!r}, not {masks!r}")
    elif record.in_memory and not (directory / PIXELS).exists():
        _restore(directory, record, progress)
    return _load(directory, record)


def load_detection(directory: Path) -> DetectionSet:
    """The set that :func:`prepare_detection` left in ``directory``."""
    record = DetectionRecord.read(directory)
    if record is None:
        raise DataError(f"{directory} holds no prepared images with annotations")
    return _load(directory, record)


class _Asked(NamedTuple):
    """The arguments of :func:`prepare_detection`."""

    name: str
    size: tuple[int, int]
    root: str | None
    masks: Masks
    limit: int | None
    cache: str


def _begin(directory: Path, asked: _Asked, progress: Progress | None) -> DetectionRecord:
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
        file.keep([kept.place for split in SPLITS for kept in chosen.get(split, [])])
    record = DetectionRecord(
        root=str(where.absolute()),
        categories=annotations.categories,
        masks=masks,
        side=side,
        cache=str(store) if store else None,
        ranges=reader.ranges,
        in_memory=file.fits,
        splits={split: [fitted[k.item.name] for k in kept] for split, kept in chosen.items()},
        digests={split: [k.digest for k in kept] for split, kept in chosen.items()},
    )
    splits = _images(record, directory)
    _check(name, splits, listing, reading, len(annotations.categories))
    classes = [printable(category.name) for category in annotations.categories]
    record.mirror, why = _mirror(splits[TRAIN], classes)
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
            f"{'mirrored' if record.mirror else 'not mirrored'}, {why}",
            *([f"masks are drawn from the boxes: {masks}"] if masks in MASKS[2:] else []),
        ],
        [*annotations.warnings, *fitting.warnings(), *_warnings(splits, classes, annotations)],
        Duplicates(),
    )
    record.write(directory)
    return record


def _restore(directory: Path, record: DetectionRecord, progress: Progress | None) -> None:
    """Bring back the pixels of a record, image by image, and see that they are the same."""
    items = [
        Item(image.name, 0, split) for split in _in_order(record) for image in record.splits[split]
    ]
    digests = [digest for split in _in_order(record) for digest in record.digests[split]]
    advance = Counted(progress)
    advance.total = len(items)
    with PixelFile.writing(directory) as file:
        reading = Reading(_reader(record), file, Listing([_NOTHING], items), advance)
        kept = reading.read(items)
        if reading.left_out:
            gone = reading.left_out[0]
            raise DataError(
                f"{len(reading.left_out):,} of the images that the run began with cannot be read "
                f"any more, first {printable(gone.name)!r} ({gone.reason})"
            )
        for image, before in zip(kept, digests, strict=True):
            if image.digest != before:
                raise DataError(
                    "the images are no longer those that the run began with: "
                    f"{printable(image.item.name)!r} has changed"
                )
        file.keep([image.place for image in kept])


def _load(directory: Path, record: DetectionRecord) -> DetectionSet:
    splits = _images(record, directory)
    masks: Any = record.masks
    return DetectionSet(
        record.categories, masks, record.mirror, record.moments, record.findings,
        splits[TRAIN], splits[TEST], splits.get(FINAL), record.side, record.ranges,
    )  # fmt: skip


def _reader(record: DetectionRecord) -> Reader:
    cache = ImageCache(Path(record.cache)) if record.cache else None
    return Reader(Folder(record.root), 3, record.side, record.ranges, cache)


def _in_order(record: DetectionRecord) -> list[str]:
    return [split for split in SPLITS if split in record.splits]


def _images(record: DetectionRecord, directory: Path) -> dict[str, DetectionImages]:
    splits, start = {}, 0
    for split in _in_order(record):
        mine = record.splits[split]
        at_hand = start if record.in_memory else None
        splits[split] = DetectionImages(mine, record, directory, at_hand)
        start += len(mine)
    return splits


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
    if any(item.label == count for item in items):
        classes.append(_NOTHING)
    return Listing(classes, items, notes=notes)


def _rarest(objects: Objects, total: np.ndarray) -> int:
    if len(objects) == 0:
        return len(total)
    return min(np.unique(objects.labels).tolist(), key=lambda label: total[label])


def _check(
    name: str,
    splits: dict[str, DetectionImages],
    listing: Listing,
    reading: Reading,
    num_classes: int,
) -> None:
    """Refuse a set without an image or an object to learn from or to be held out."""
    gone = f" ({len(reading.left_out):,} unreadable)" if reading.left_out else ""
    for split in {item.split for item in listing.items} - {""} | {TRAIN, TEST}:
        images = splits.get(split)
        if not images:
            raise DataError(f"no readable image in the {split} part of {name!r}{gone}")
        if not _counts(images, num_classes).any():
            raise DataError(
                f"no object in the {split} part of {name!r}: its {len(images):,} images are all "
                "without a usable box"
            )


def _counts(images: DetectionImages, num_classes: int) -> np.ndarray:
    """(K,) objects of each class that are no crowd."""
    total = np.zeros(num_classes, dtype=np.int64)
    for image in images.annotated:
        objects = image.objects
        total += np.bincount(objects.labels[~objects.crowd], minlength=num_classes)
    return total


def _background(splits: dict[str, DetectionImages]) -> list[str]:
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
    splits: dict[str, DetectionImages], classes: list[str], annotations: Annotations
) -> list[str]:
    found = []
    for split, images in splits.items():
        counts = _counts(images, len(classes))
        absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
        if absent:
            use = "it cannot be learnt" if split == TRAIN else "its AP is undefined and left out"
            more = f" and {len(absent) - 3:,} others" if len(absent) > 3 else ""
            named = ", ".join(map(repr, absent[:3]))
            found.append(f"no object of {named}{more} in the {split} part: {use}")
    read = sum(map(len, splits.values()))
    lost = len({image.name for image in annotations.images}) - read
    if lost > read:
        found.append(f"most images are left out: {lost:,} of {lost + read:,}")
    return found


# What is decided from the images


def _mirror(images: DetectionImages, classes: list[str]) -> tuple[bool, str]:
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
    return choose_mirror(crops, [dense[label] for label in labels], names)


def _crop(pixels: np.ndarray, image: AnnotatedImage, row: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    y, x = height / image.size[0], width / image.size[1]
    x1, y1, x2, y2 = image.objects.boxes[row] * (x, y, x, y)
    left, top = min(int(x1), width - 1), min(int(y1), height - 1)
    right, bottom = max(round(x2), left + 1), max(round(y2), top + 1)
    return np.ascontiguousarray(pixels[top:bottom, left:right])
