"""COCO's annotation files: one JSON a split, with images, annotations and categories.

Boxes are ``x, y, width, height``. Ids of categories may have gaps: labels follow the sorted ids of
the file to learn from, and files of other splits are matched by the categories' names. Where most
boxes leave their image, and none does as two corners, they are read as ``x1, y1, x2, y2``.

Format: cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.annotations.files import MISSING, ImageFiles, read_text
from foveate.data.annotations.geometry import leaves, look_like_corners
from foveate.data.annotations.masks import coco_masks, numbers_of, polygons_of, read_mask, short
from foveate.data.annotations.record import AnnotatedImage, Annotations, Category, Objects
from foveate.data.findings import LeftOut, printable
from foveate.data.pixels.decode import read_header, reason
from foveate.data.sources.base import TRAIN, DataError

STRAY = "annotations of images that their file does not list"
_SUSPICIOUS = 20
_NAMED = 5
_KEYS = ("id", "image_id", "category_id")


def read_coco(
    files: Sequence[tuple[str, Path]], images: ImageFiles, masks: bool = False
) -> Annotations:
    """What the files hold.

    Args:
        files: the split and the path of each.
        images: where their images are looked for.
        masks: whether masks are read.

    Raises:
        DataError: naming file and entry, if one cannot be understood.
    """
    documents = [_Document(split, path, images, masks) for split, path in files]
    first = next((d for d in documents if d.split == TRAIN), documents[0])
    found = Annotations("COCO", first.categories, [])
    label_of = {category.name: label for label, category in enumerate(first.categories)}
    for document in documents:
        document.read(label_of, first.path, found)
    _check_owners(found)
    return found


def _check_owners(found: Annotations) -> None:
    """Refuse a file that is meant twice: its objects would be those of one entry alone."""
    counts = Counter(image.name for image in found.images)
    name, count = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
    if count > 1:
        splits = {image.split for image in found.images if image.name == name}
        of = f" of {' and '.join(sorted(splits))}" if len(splits) > 1 else ""
        raise DataError(
            f"{count} entries{of} have only the image {printable(name)!r} that could be meant: add "
            "the images that are missing, list it once, or give the folders in file_name"
        )


class _Document:
    """One file, and what is said of it."""

    def __init__(self, split: str, path: Path, images: ImageFiles, masks: bool) -> None:
        self.split, self.path, self.images, self.masks = split, path, images, masks
        self.values = load_json(path)
        self.categories = self._categories()

    def read(self, label_of: dict[str, int], first: Path, found: Annotations) -> None:
        """Add its images to ``found``."""
        self._check_categories(label_of, first, found)
        listed = self._listed(found)
        grouped = self._annotations(listed, found)
        sizes = self._sizes(listed, found)
        corners = self._recognise(grouped, sizes, found)
        names = {category.id: label_of.get(category.name) for category in self.categories}
        missing = 0
        for key, size in sizes.items():
            stated = listed[key]["file_name"]
            name = self.images.find(stated, self.split, self.path.parent)
            if name is None:
                missing += 1
                found.left_out.append(LeftOut(stated, MISSING))
                continue
            objects = self._objects(grouped[key], names, size, corners)
            found.images.append(AnnotatedImage(name, size, objects, self.split))
        if sizes and missing == len(sizes):
            stated = next(iter(listed.values()))["file_name"]
            raise DataError(
                f"none of the {missing:,} images that {self.path} lists is below "
                f"{str(self.images.root)!r}, such as {stated!r}: put them there, or give the "
                "folder that holds images and annotations"
            )

    def _categories(self) -> tuple[Category, ...]:
        listed = self.values.get("categories")
        if not isinstance(listed, list) or not listed:
            raise DataError(f"{self.path} has no categories, which name the classes of its boxes")
        found = []
        for entry in listed:
            try:
                found.append(Category(int(entry["id"]), str(entry["name"])))
            except (KeyError, TypeError, ValueError):
                raise DataError(
                    f"{self.path}: a category needs an id, a number, and a name, got {entry!r}"
                ) from None
        for what in ("id", "name"):
            value, count = Counter(getattr(each, what) for each in found).most_common(1)[0]
            if count > 1:
                raise DataError(f"{self.path} has {count} categories of the {what} {value!r}")
        return tuple(sorted(found))

    def _check_categories(self, label_of: dict[str, int], first: Path, found: Annotations) -> None:
        """Categories of another file are those of the first, by name."""
        if self.path == first:
            ids = [category.id for category in self.categories]
            if ids != list(range(len(ids))):
                named = ", ".join(map(str, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
                found.notes.append(
                    f"category ids of {self.path.name} ({named}) are labels from 0, in this order"
                )
            return
        used = Counter(entry.get("category_id") for entry in self._list("annotations"))
        for category in self.categories:
            if category.name not in label_of and used[category.id]:
                raise DataError(
                    f"{self.path} has {used[category.id]:,} annotations of the category "
                    f"{category.name!r}, which {first} does not have; it has "
                    f"{', '.join(label_of)}"
                )
        theirs = [category.name for category in self.categories]
        if theirs != list(label_of):
            found.notes.append(
                f"{self.path.name} lists other categories than {first.name}, or in another order: "
                "they are matched by name"
            )

    def _list(self, key: str) -> list[dict[str, Any]]:
        entries = self.values.get(key)
        if not isinstance(entries, list):
            raise DataError(f"{self.path} has no list of {key}, as COCO's files have")
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise DataError(
                    f"{self.path}: entry {number} of {key} is no dict of values, got {short(entry)}"
                )
            for of in _KEYS:
                if isinstance(entry.get(of), (list, dict)):
                    raise DataError(
                        f"{self.path}: entry {number} of {key} needs a number as {of}, "
                        f"got {short(entry[of])}"
                    )
        return entries

    def _listed(self, found: Annotations) -> dict[Any, dict[str, Any]]:
        """Images by id."""
        listed: dict[Any, dict[str, Any]] = {}
        repeated = 0
        for entry in self._list("images"):
            key, name = entry.get("id"), entry.get("file_name")
            if key is None or not isinstance(name, str):
                raise DataError(f"{self.path}: an image needs id and file_name, got {entry!r}")
            if key not in listed:
                listed[key] = entry
            elif listed[key]["file_name"] == name:
                repeated += 1
            else:
                raise DataError(
                    f"{self.path} gives the image id {key!r} to {listed[key]['file_name']!r} and "
                    f"to {name!r}: whose the annotations are cannot be told"
                )
        if not listed:
            raise DataError(f"{self.path} lists no image")
        if repeated:
            found.notes.append(f"{repeated:,} images of {self.path.name} are listed twice: once")
        twice = [n for n, c in Counter(e["file_name"] for e in listed.values()).items() if c > 1]
        if twice:
            raise DataError(
                f"{self.path} lists {twice[0]!r} under several ids, each with a part of its "
                f"objects perhaps ({len(twice):,} such images): give every image one id"
            )
        return listed

    def _annotations(
        self, listed: dict[Any, dict[str, Any]], found: Annotations
    ) -> dict[Any, list[dict[str, Any]]]:
        """Annotations by image, each with its box as four numbers under ``"bbox"``."""
        entries = self._list("annotations")
        if not entries:
            raise DataError(f"{self.path} has no annotation: it lists {len(listed):,} images only")
        known = {category.id for category in self.categories}
        grouped = defaultdict(list)
        for entry in entries:
            where = f"annotation {entry.get('id', '?')}"
            if entry.get("image_id") not in listed:
                found.left_out.append(LeftOut(f"{self.path.name}, {where}", STRAY))
                continue
            if entry.get("category_id") not in known:
                names = ", ".join(f"{c.id} {c.name}" for c in self.categories[:20])
                raise DataError(
                    f"{self.path}: {where} has the category_id {entry.get('category_id')!r}, which "
                    f"is not among the categories ({names})"
                )
            grouped[entry["image_id"]].append({**entry, "bbox": self._box(entry, where)})
        twice = Counter(e["id"] for e in entries if "id" in e)
        more = sum(count - 1 for count in twice.values())
        if more:
            found.warnings.append(
                f"{more:,} annotations of {self.path.name} have an id that another has: all are "
                "used; pycocotools would use one of each"
            )
        return grouped

    def _box(self, entry: Mapping[str, Any], where: str) -> list[float]:
        box = entry.get("bbox")
        if box is None and entry.get("segmentation"):
            return self._box_of_mask(entry["segmentation"], where)
        numbers = numbers_of(box)
        if numbers is None or len(numbers) != 4:
            raise DataError(
                f"{self.path}: {where} needs a bbox of x, y, width, height, got {short(box)}"
            )
        return numbers

    def _box_of_mask(self, segmentation: Any, where: str) -> list[float]:
        if isinstance(segmentation, Mapping):
            mask = read_mask(segmentation, None, f"{self.path}: {where}")
            return coco_masks().toBbox(mask).tolist()
        points = np.concatenate(polygons_of(segmentation, f"{self.path}: {where}")).reshape(-1, 2)
        return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]

    def _sizes(
        self, listed: dict[Any, dict[str, Any]], found: Annotations
    ) -> dict[Any, tuple[int, int]]:
        """Height and width of every image, as stated or else of the file, upright."""
        sizes, unstated = {}, 0
        for key, entry in listed.items():
            height, width = self._side(entry, "height"), self._side(entry, "width")
            if height and width:
                sizes[key] = (height, width)
                continue
            unstated += 1
            name = self.images.find(entry["file_name"], self.split, self.path.parent)
            if name is None:
                found.left_out.append(LeftOut(entry["file_name"], MISSING))
                continue
            try:
                sizes[key] = read_header(self.images.root / name).upright
            except Exception as error:
                found.left_out.append(LeftOut(name, reason(error, name), unreadable=True))
        if unstated:
            found.notes.append(
                f"{unstated:,} images of {self.path.name} have no width and height in it: those of "
                "the upright image are taken"
            )
        return sizes

    def _side(self, entry: Mapping[str, Any], key: str) -> int:
        """The height or width that is stated, 0 where none is."""
        given = entry.get(key) or 0
        try:
            return max(0, int(float(given)))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{self.path}: image {entry['file_name']!r} needs a number of pixels as {key}, "
                f"got {short(given)}"
            ) from None

    def _recognise(
        self,
        grouped: dict[Any, list[dict[str, Any]]],
        sizes: dict[Any, tuple[int, int]],
        found: Annotations,
    ) -> bool:
        """Whether the boxes are two corners, where x, y, width, height is meant."""
        rows = [(e["bbox"], sizes[k]) for k, es in grouped.items() if k in sizes for e in es]
        if not rows:
            return False
        given = np.array([box for box, _ in rows])
        extents = np.array([size for _, size in rows])
        meant = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], 1)
        if look_like_corners(meant, given, extents):
            found.warnings.append(
                f"the boxes of {self.path.name} are read as x1, y1, x2, y2: as the x, y, width, "
                "height of COCO's files most leave their image, and as corners none does"
            )
            return True
        outside = leaves(meant, extents)
        ordered = (given[:, 2:] > given[:, :2]).all()
        if outside.any() and ordered and len(given) >= _SUSPICIOUS:
            found.warnings.append(
                f"the boxes of {self.path.name} may be x1, y1, x2, y2: {int(outside.sum()):,} of "
                f"{len(given):,} leave their image as the x, y, width, height that they are read "
                "as, and none is inverted as corners"
            )
        return False

    def _objects(
        self,
        entries: list[dict[str, Any]],
        names: dict[int, int | None],
        size: tuple[int, int],
        corners: bool,
    ) -> Objects:
        if not entries:
            return Objects.none()
        boxes = np.array([entry["bbox"] for entry in entries])
        if not corners:
            boxes[:, 2:] += boxes[:, :2]
        said = [f"{self.path.name}, annotation {entry.get('id', '?')}" for entry in entries]
        areas = [self._area(entry, where) for entry, where in zip(entries, said, strict=True)]
        return Objects(
            boxes,
            np.array([names[entry["category_id"]] for entry in entries], np.int64),
            np.array([self._crowd(e, where) for e, where in zip(entries, said, strict=True)]),
            np.array(areas),
            self._masks(entries, said, size) if self.masks else None,
            tuple(said),
        )

    def _area(self, entry: Mapping[str, Any], where: str) -> float:
        given = entry.get("area")
        if given is None:
            return np.nan
        numbers = numbers_of([given])
        if numbers is None:
            raise DataError(f"{where} needs a number of pixels as area, got {short(given)}")
        return numbers[0] or np.nan

    def _crowd(self, entry: Mapping[str, Any], where: str) -> bool:
        given = entry.get("iscrowd") or 0
        if given not in (0, 1):
            raise DataError(f"{where} needs 0 or 1 as iscrowd, got {short(given)}")
        return given == 1

    def _masks(self, entries: list[dict[str, Any]], said: list[str], size: tuple[int, int]) -> Any:
        found = []
        for entry, where in zip(entries, said, strict=True):
            given = entry.get("segmentation")
            if not given:
                raise DataError(
                    f"{where} has no segmentation: give masks='ellipse' or masks='rectangle' to "
                    "draw masks from the boxes, or none"
                )
            found.append(read_mask(given, size, where))
        return tuple(found)


def load_json(path: Path) -> dict[str, Any]:
    """The values of an annotation file.

    Raises:
        DataError: if it is empty, damaged or something else.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is no JSON, or cut off: {error.msg} at line {error.lineno}, "
            f"column {error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON that can be read: {error}") from None
    if isinstance(values, list):
        raise DataError(
            f"{path} holds a list, as COCO's results do: annotations are a dict of images, "
            "annotations and categories"
        )
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no dict of images, annotations and categories")
    return values
