"""Pascal VOC's annotation files: one XML an image, with names of classes and corners of boxes.

VOC counts pixels from one and its corners are inside the box: ``xmin`` 1 and ``xmax`` W is the
whole width. A set in which any ``xmin`` or ``ymin`` is below one counts from zero, as several
tools write it, and is read as it stands. Objects marked difficult are read as crowd regions: they
are not learnt from, and detections of them count neither way.

Splits are the lists in ``ImageSets/Main`` or folders called train, val and test. Classes are in
alphabetical order. Format: host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from foveate.data.annotations.files import MISSING, ImageFiles, read_text, split_word
from foveate.data.annotations.record import AnnotatedImage, Annotations, Category, Objects
from foveate.data.findings import LeftOut
from foveate.data.pixels.decode import read_header, reason
from foveate.data.sources.base import SPLITS, TEST, TRAIN, DataError, split_named

OTHER_XML = "XML files that are no annotations of Pascal VOC"
UNLISTED = "annotation files that no list in ImageSets/Main names"
UNANNOTATED = "listed in ImageSets/Main, without an annotation file"
_DIFFICULT = {"": False, "0": False, "1": True, "false": False, "true": True}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    name: str
    corners: tuple[float, ...]
    difficult: bool


class _File(NamedTuple):
    """What one XML says."""

    path: Path
    split: str
    image: str
    size: tuple[int, int]
    objects: list[_Object]


def read_voc(paths: Sequence[Path], images: ImageFiles) -> Annotations:
    """What the files hold.

    Args:
        paths: of the XML files, below the root of ``images``.
        images: where their images are looked for.

    Raises:
        DataError: naming file and entry, if one cannot be understood.
    """
    found = Annotations("Pascal VOC", (), [])
    split_of = _listed_splits(images.root)
    annotated = {path.stem for path in paths}
    for name in split_of or ():
        if name not in annotated:
            found.left_out.append(LeftOut(name, UNANNOTATED))
    files, owner = [], {}
    for path in filter(Path.is_file, paths):
        split = _split(path, images.root, split_of)
        if split is None:
            found.left_out.append(LeftOut(path.relative_to(images.root).as_posix(), UNLISTED))
            continue
        file = _read(path, split, images, found)
        if file is None:
            continue
        if file.image in owner:
            raise DataError(f"{owner[file.image]} and {path} are both of the image {file.image!r}")
        owner[file.image] = path
        files.append(file)
    if not files:
        raise DataError(
            f"none of the images of {len(paths):,} annotation files in {str(images.root)!r} is "
            "there: put them beside the files or into JPEGImages"
        )
    _check_splits(images.root, files, split_of or {})
    found.categories = _categories(files)
    label_of = {category.name: label for label, category in enumerate(found.categories)}
    shift = _count_from(files, found)
    found.images = [
        AnnotatedImage(file.image, file.size, _objects(file, label_of, shift), file.split)
        for file in files
    ]
    difficult = sum(each.difficult for file in files for each in file.objects)
    if difficult:
        found.notes.append(
            f"{difficult:,} objects marked difficult are not learnt from, and detections of them "
            "count neither way"
        )
    return found


def _listed_splits(root: Path) -> dict[str, str] | None:
    """The split of every name in ``ImageSets/Main``, or None where there are no lists."""
    lists = root / "ImageSets" / "Main"
    split_of: dict[str, str] = {}
    paths = {s: p for p in sorted(lists.glob("*.txt")) if (s := split_named(p.stem)) is not None}
    for split in SPLITS:
        names = [line.split()[0] for line in _lines(paths[split], split)] if split in paths else []
        for name in names:
            if split_of.setdefault(name, split) != split:
                raise DataError(
                    f"{name!r} is in the lists of two splits in {lists}: {split_of[name]}, {split}"
                )
    return split_of or None


def _lines(path: Path, split: str) -> list[str]:
    """Those of a list of images that are not blank.

    Raises:
        DataError: if there is none to learn from or to be held out.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines and split in (TRAIN, TEST):
        raise DataError(f"{path} is empty: list the names of its images, or remove it")
    return lines


def _check_splits(root: Path, files: Sequence[_File], split_of: dict[str, str]) -> None:
    """Refuse lists of which one has lost all its images, before others are held out instead.

    The list of test may: its annotations are often not given away.
    """
    there = {file.split for file in files}
    for split, word in ((TRAIN, "to learn from"), (TEST, "held out")):
        names = [name for name, its in split_of.items() if its == split]
        if names and split not in there:
            raise DataError(
                f"all {len(names):,} images that the lists in {root / 'ImageSets' / 'Main'} have "
                f"{word} are missing, or their annotation files, such as {names[0]!r}"
            )


def _split(path: Path, root: Path, split_of: dict[str, str] | None) -> str | None:
    if split_of is not None:
        return split_of.get(path.stem)
    for part in reversed(path.relative_to(root).parts[:-1]):
        if (split := split_word(part)) is not None:
            return split
    return ""


def _read(path: Path, split: str, images: ImageFiles, found: Annotations) -> _File | None:
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path} is no XML, or cut off: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if tree.tag != "annotation":
        found.left_out.append(LeftOut(path.relative_to(images.root).as_posix(), OTHER_XML))
        return None
    stated = (tree.findtext("filename") or path.stem).strip()
    name = images.find(stated, split, path.parent) or images.find_stem(
        path.stem, split, path.parent
    )
    if name is None:
        found.left_out.append(LeftOut(stated, MISSING))
        return None
    try:
        size = _whole(tree, "size/height"), _whole(tree, "size/width")
    except (TypeError, ValueError, OverflowError):
        size = (0, 0)
    if min(size) < 1:
        try:
            size = read_header(images.root / name).upright
        except Exception as error:
            found.left_out.append(LeftOut(name, reason(error, name), unreadable=True))
            return None
    objects = [_object(path, number, each) for number, each in enumerate(tree.iter("object"), 1)]
    return _File(path, split, name, size, objects)


def _whole(tree: ElementTree.Element, key: str) -> int:
    return int(float(tree.findtext(key)))  # pyrefly: ignore


def _object(path: Path, number: int, given: ElementTree.Element) -> _Object:
    name = (given.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path}: object {number} has no name")
    try:
        corners = tuple(float(given.findtext(f"bndbox/{c}")) for c in _CORNERS)  # pyrefly: ignore
    except (TypeError, ValueError):
        raise DataError(
            f"{path}: object {number} ({name}) needs a bndbox of xmin, ymin, xmax and ymax"
        ) from None
    difficult = (given.findtext("difficult") or "").strip().lower()
    if difficult not in _DIFFICULT:
        raise DataError(
            f"{path}: object {number} ({name}) has difficult {difficult!r}, expected 0 or 1"
        )
    return _Object(name, corners, _DIFFICULT[difficult])


def _categories(files: Sequence[_File]) -> tuple[Category, ...]:
    """The classes of the images to learn from; others may have no other."""
    learning = [file for file in files if file.split in ("", SPLITS[0])] or list(files)
    names = sorted({each.name for file in learning for each in file.objects})
    if not names:
        raise DataError(f"no object in {len(learning):,} annotation files, such as {files[0].path}")
    for file in files:
        for each in file.objects:
            if each.name not in names:
                raise DataError(
                    f"{file.path} has an object {each.name!r}, but no image to learn from has one; "
                    f"these have {', '.join(names)}"
                )
    return tuple(Category(number, name) for number, name in enumerate(names))


def _count_from(files: Sequence[_File], found: Annotations) -> int:
    """What is subtracted of the first corner: 1 in a set that counts from one."""
    first = [c for file in files for each in file.objects for c in each.corners[:2]]
    lowest = min(filter(isfinite, first), default=1)
    if lowest < 1:
        found.notes.append(
            f"pixels are counted from zero: the least xmin or ymin is {lowest:g}, where Pascal VOC "
            "counts from one"
        )
        return 0
    found.notes.append("pixels are counted from one, as in Pascal VOC")
    return 1


def _objects(file: _File, label_of: dict[str, int], shift: int) -> Objects:
    if not file.objects:
        return Objects.none()
    boxes = np.array([each.corners for each in file.objects])
    boxes[:, :2] -= shift
    return Objects(
        boxes,
        np.array([label_of[each.name] for each in file.objects], np.int64),
        np.array([each.difficult for each in file.objects]),
        np.full(len(boxes), np.nan),
        entries=tuple(f"{file.path.name}, object {n}" for n in range(1, len(boxes) + 1)),
    )
