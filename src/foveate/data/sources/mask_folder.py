"""A folder of images and masks, in the layouts that people have.

    images/{train,val,test}/a.jpg     masks/{train,val,test}/a.png
    {train,val,test}/images/a.jpg     {train,val,test}/masks/a.png
    images/a.jpg                      masks/a.png                     a fifth is held out
    {train,val,test}/a.jpg            {train,val,test}annot/a.png     or _masks, _labels
    JPEGImages/a.jpg                  SegmentationClass/a.png         ImageSets/Segmentation/*.txt

An image and its mask have one name, but for the ending and such words as ``_mask`` behind it. What
labels mean: :mod:`foveate.data.sources.class_list` and :mod:`foveate.data.pixels.mask`.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from foveate.data.findings import LeftOut, printable
from foveate.data.pixels.decode import NEEDS_PACKAGE, open_file, reason
from foveate.data.pixels.mask import (
    Meaning,
    Values,
    meaning_of,
    needs_table,
    open_mask,
    upright,
    values_of,
)
from foveate.data.sources.base import (
    FINAL,
    TEST,
    TRAIN,
    DataError,
    Item,
    Listing,
    Raw,
    Source,
    settle_splits,
    split_named,
)
from foveate.data.sources.class_list import check_ignored, read_class_list

_IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit", "rgb")
_MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "gt", "gtfine",
    "groundtruth", "ground_truth", "segmentationclass",
)  # fmt: skip
_ANNOTATED = ("annot", "_annot", "_masks", "masks", "_labels", "labels", "_mask", "_label")
_BEHIND = re.compile(
    r"_(mask|masks|label|labels|gt|seg|segmentation|image|img|rgb|leftImg8bit|L|"
    r"gtFine_labelTrainIds|gtFine_labelIds)$"
)
_VOC = {"train": TRAIN, "val": TEST, "test": FINAL}
NO_MASKS = "images of a folder without masks"
NO_IMAGE, NO_MASK = "masks without an image", "images without a mask"
NOT_READ = "hidden files, and files that are no images"
UNLISTED = "in no list under ImageSets/Segmentation"

LAYOUTS = (
    "images/{train,val,test} beside masks/{train,val,test}; {train,val,test}/images beside "
    "{train,val,test}/masks; images beside masks; or JPEGImages beside SegmentationClass"
)


class _Folders(NamedTuple):
    """A folder of images, that of their masks, and their split; paths below the root."""

    images: str
    masks: str
    split: str


class _Paired(NamedTuple):
    """What a folder holds: images with a mask, by image its mask, what is left out, and notes."""

    items: list[Item]
    masks: dict[str, str]
    left_out: list[LeftOut]
    notes: list[str]


class MaskFolder(Source):
    """Images and masks below a folder.

    Args:
        path: of the folder.
        ignored: the user's own label of pixels that count nowhere, beside 255.
    """

    grows = True

    def __init__(self, path: str, ignored: int | None = None) -> None:
        if ignored is not None:
            check_ignored(ignored, "ignore_label")
        self.name, self.ignored = path, ignored
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            raise DataError(
                f"data {path!r} is no folder: segmentation reads a folder of images and masks: "
                f"{LAYOUTS}"
            )

    def list(self) -> Listing:
        """Pairs; their label is 0, for classes are of pixels.

        Raises:
            DataError: if an image has no mask, or a label no class.
        """
        _, classes, notes, warnings = self._meaning
        notes = [*self._paired.notes, *notes]
        items = settle_splits(self._paired.items, notes, repr(self.name))
        return Listing(classes, items, [*self._paired.left_out], notes, warnings, of_parts=True)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        return open_file(self.root / name, side)

    def mask_of(self, name: str) -> str:
        """The path of an image's mask below the root."""
        return self._paired.masks[name]

    def read_labels(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
        """The labels of an image, (H, W) uint8, and what reading them took.

        Args:
            name: of its item.
            size: height and width of the image, upright.

        Raises:
            DataError: if the mask does not fit the image, or a label has no class.
            AmbiguousTurnError: if the image is turned by EXIF, and the mask fits both ways.
        """
        path = self.root / self._paired.masks[name]
        mask, turned = upright(open_mask(path), self.root / name, size, path)
        return self._meaning.labels.read(mask, path), ("mask turned",) if turned else ()

    @cached_property
    def colors(self) -> list[tuple[int, int, int]] | None:
        """What the list of classes paints each class with, if it says."""
        listed = read_class_list(self.root)
        if listed is None or not listed.colors:
            return None
        of = self._meaning.labels.values
        kept = [value for value in range(len(listed.names)) if of.get(value, 255) != 255]
        return [listed.colors[value] for value in kept]

    @cached_property
    def _meaning(self) -> Meaning:
        listed = read_class_list(self.root)
        colored = listed is not None and bool(listed.colors)
        needed = listed is None or len(listed.names) <= 2
        found = self._values(colored) if needed else Values()
        return meaning_of(listed, found, self.ignored, repr(self.name))

    @cached_property
    def _paired(self) -> _Paired:
        left_out: list[LeftOut] = []
        folders = self._layout(left_out)
        pairs: dict[str, str] = {}
        items: list[Item] = []
        for one in folders:
            images, others = self._files(one.images)
            masks, more = self._files(one.masks)
            left_out += [LeftOut(name, NOT_READ) for name in (*others, *more)]
            found = _match(images, masks, one)
            missing = [name for name in images if name not in found]
            voc = one.images.casefold() == "jpegimages"
            if missing and not voc:
                raise DataError(
                    f"{len(missing):,} of {len(images):,} images in "
                    f"{str(self.root / one.images)!r} have no mask, first "
                    f"{printable(missing[0])!r}: expected {printable(_mask_of(missing[0], one))}"
                )
            left_out += [LeftOut(name, NO_MASK) for name in missing]
            used = set(found.values())
            left_out += [LeftOut(name, NO_IMAGE) for name in masks if name not in used]
            pairs |= found
            splits = self._voc_splits(found) if voc else {}
            if splits:
                left_out += [LeftOut(name, UNLISTED) for name in found if name not in splits]
                found = {name: mask for name, mask in found.items() if name in splits}
            items += [Item(name, 0, splits.get(name, one.split)) for name in found]
        if not items:
            raise DataError(f"no image with a mask in {self.name!r}: expected {LAYOUTS}")
        notes = [f"read: {one.images} with {one.masks}" for one in folders]
        return _Paired(items, pairs, left_out, notes)

    def _layout(self, left_out: list[LeftOut]) -> list[_Folders]:
        """The pairs of folders; what looks like one and is none is left out.

        Raises:
            DataError: if there are none, or more than one reading.
        """
        children = _folders(self.root)
        images = [name for name in children if name.casefold() in _IMAGES]
        masks = [name for name in children if name.casefold() in _MASKS]
        if len(images) > 1 or len(masks) > 1:
            several = images if len(images) > 1 else masks
            raise DataError(
                f"{self.name!r} has {' and '.join(several)}: keep one folder of images and one of "
                "masks"
            )
        if images and masks:
            return self._side_by_side(images[0], masks[0], left_out)
        splits = {name: split for name in children if (split := split_named(name)) is not None}
        inside = []
        for name, split in splits.items():
            below = _folders(self.root / name)
            pair = [[f"{name}/{c}" for c in below if c.casefold() in words]
                    for words in (_IMAGES, _MASKS)]  # fmt: skip
            if all(len(found) == 1 for found in pair):
                inside.append(_Folders(pair[0][0], pair[1][0], split))
                continue
            beside = [name + end for end in _ANNOTATED if name + end in children]
            if len(beside) == 1:
                inside.append(_Folders(name, beside[0], split))
            else:
                left_out += self._without_masks(name)
        taken = [one.split for one in inside]
        if len(set(taken)) < len(taken):
            raise DataError(f"two folders of {self.name!r} name the same split; rename one")
        if not inside:
            there = ", ".join(map(repr, children[:8])) or "no folder"
            raise DataError(f"no images with masks in {self.name!r}, which holds {there}: "
                            f"expected {LAYOUTS}")  # fmt: skip
        return inside

    def _side_by_side(self, images: str, masks: str, left_out: list[LeftOut]) -> list[_Folders]:
        splits = {name: split_named(name) for name in _folders(self.root / images)}
        if not any(splits.values()):
            return [_Folders(images, masks, "")]
        named = []
        for name, split in splits.items():
            if split is not None and (self.root / masks / name).is_dir():
                named.append((name, split))
            else:
                left_out += self._without_masks(f"{images}/{name}")
        if len({split for _, split in named}) < len(named):
            raise DataError(f"two folders of {self.name!r} name the same split; rename one")
        return [_Folders(f"{images}/{name}", f"{masks}/{name}", split) for name, split in named]

    def _without_masks(self, folder: str) -> list[LeftOut]:
        count = len(self._files(folder)[0])
        return [LeftOut(folder, NO_MASKS, count=count)] if count else []

    def _voc_splits(self, pairs: dict[str, str]) -> dict[str, str]:
        """By image, its split, where lists say so."""
        lists = self.root / "ImageSets" / "Segmentation"
        by_stem = {Path(name).stem: name for name in pairs}
        found: dict[str, str] = {}
        for stem, split in _VOC.items():
            path = lists / f"{stem}.txt"
            if not path.is_file():
                continue
            try:
                lines = path.read_text(encoding="utf-8-sig").split()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} is no list of images that can be read: {error}") from None
            if not lines and split in (TRAIN, TEST):
                raise DataError(f"{path} is empty: list the names of its images, or remove it")
            for line in lines:
                if line not in by_stem:
                    raise DataError(f"{path} lists {line!r}, which has no image with a mask")
                if found.setdefault(by_stem[line], split) != split:
                    raise DataError(f"{line!r} is in the lists of two splits in {lists}")
        return found

    def _files(self, folder: str) -> tuple[list[str], list[str]]:
        """Image files below a folder, and what is none."""
        images, others = [], []
        for where, folders, files in os.walk(self.root / folder, followlinks=True):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and not _around(where, name)
            )
            for file in sorted(files):
                path = str((Path(where) / file).relative_to(self.root))
                suffix = os.path.splitext(file)[1].lower()
                known = suffix in Image.registered_extensions() or suffix in NEEDS_PACKAGE
                (images if known and not file.startswith(".") else others).append(path)
        return images, others

    def _values(self, colored: bool) -> Values:
        """The values in all masks."""
        paths = [self.root / mask for mask in self._paired.masks.values()]

        def look(path: Path) -> list[int]:
            try:
                mask = open_mask(path)
            except DataError:
                raise
            except Exception as error:
                raise DataError(f"mask {path} cannot be read: {reason(error, str(path))}") from None
            if mask.mode == "RGB" and not colored:
                raise needs_table(path)
            return [] if mask.mode == "RGB" else np.unique(values_of(mask)).tolist()

        with ThreadPoolExecutor() as pool:
            return Values(zip(paths, pool.map(look, paths), strict=True))


def _around(where: str, name: str) -> bool:
    """Whether a folder is a link to one that it stands in."""
    inside, meant = os.path.realpath(where), os.path.realpath(os.path.join(where, name))
    return os.path.commonpath([inside, meant]) == meant


def _mask_of(image: str, folders: _Folders) -> str:
    return os.path.splitext(image.replace(folders.images, folders.masks, 1))[0] + ".png"


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _match(images: list[str], masks: list[str], folders: _Folders) -> dict[str, str]:
    """By image, its mask.

    Raises:
        DataError: if an image has several, or two have one.
    """

    def key(name: str, folder: str) -> str:
        return os.path.splitext(os.path.relpath(name, folder))[0]

    plain: dict[str, list[str]] = {}
    bare: dict[str, list[str]] = {}
    for mask in masks:
        plain.setdefault(key(mask, folders.masks), []).append(mask)
        bare.setdefault(_BEHIND.sub("", key(mask, folders.masks)), []).append(mask)
    found = {}
    for image in images:
        called = key(image, folders.images)
        fitting = plain.get(called) or bare.get(_BEHIND.sub("", called), [])
        if len(fitting) > 1:
            raise DataError(
                f"image {printable(image)!r} has several masks: "
                f"{' and '.join(printable(mask) for mask in fitting)}"
            )
        if fitting:
            found[image] = fitting[0]
    owner: dict[str, str] = {}
    for image, mask in found.items():
        if (other := owner.setdefault(mask, image)) != image:
            raise DataError(
                f"images {printable(other)!r} and {printable(image)!r} have one mask, "
                f"{printable(mask)!r}: which of them it is of cannot be told"
            )
    return found
