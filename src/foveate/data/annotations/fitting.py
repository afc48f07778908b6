"""Annotations against the image that is there: turned with it, scaled to it, clipped to it.

Whether boxes refer to the image as stored or as turned by its EXIF orientation is decided by the
width and height that the annotation file states. Where both are the same (a square, a mirror image,
half a turn) the turned image is meant, as viewers and annotation tools show it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from foveate.data.annotations.geometry import clip, leaves, turn_boxes
from foveate.data.annotations.masks import coco_masks, turned
from foveate.data.annotations.record import AnnotatedImage, Objects
from foveate.data.findings import LeftOut, images_of, printable
from foveate.data.pixels.decode import Header

OTHER_SIZE = "images of another size than their annotations state"
_ASPECT = 0.01
_TURNED, _STORED, _EITHER, _SWAPPED, _SCALED = range(5)


class Fitting:
    """Fits images one after the other, and remembers what it took."""

    def __init__(self) -> None:
        self.left_out: list[LeftOut] = []
        self._taken: Counter[int] = Counter()
        self._no_pixel: list[str] = []

    def fit(self, image: AnnotatedImage, header: Header) -> AnnotatedImage | None:
        """The image with the size of the upright file and objects in its pixels; None if left out.

        Args:
            image: as its annotation file states it.
            header: of the file.
        """
        objects = self._placed(image, header)
        if objects is None:
            self.left_out.append(LeftOut(image.name, OTHER_SIZE))
            return None
        objects = self._clipped(objects, image.name, header.upright)
        self._look_at_masks(objects, image.name)
        return replace(image, size=header.upright, objects=_with_areas(objects, header.upright))

    def _placed(self, image: AnnotatedImage, header: Header) -> Objects | None:
        stated, upright, objects = image.size, header.upright, image.objects
        if stated == upright:
            if header.orientation != 1:
                self._taken[_EITHER if stated == header.size else _TURNED] += 1
            return objects
        if stated == header.size:
            self._taken[_STORED] += 1
            return _turned(objects, header)
        if stated[::-1] == upright:
            extents = np.broadcast_to(upright, (len(objects), 2))
            # Masks were drawn into the stated frame, which is not that of the image.
            if objects.masks or leaves(objects.boxes, extents).any():
                return None
            self._taken[_SWAPPED] += 1
            return objects
        y, x = upright[0] / stated[0], upright[1] / stated[1]
        if abs(x / y - 1) > _ASPECT:
            return None
        self._taken[_SCALED] += 1
        return objects.scaled(x, y)

    def _clipped(self, objects: Objects, name: str, size: tuple[int, int]) -> Objects:
        boxes, reasons = clip(objects.boxes, size)
        for row in np.flatnonzero(reasons != ""):
            entry = f"{objects.entries[row]} of {name}" if objects.entries else name
            self.left_out.append(LeftOut(entry, reasons[row]))
        return replace(objects, boxes=boxes).keep(reasons == "")

    def _look_at_masks(self, objects: Objects, name: str) -> None:
        areas = coco_masks().area(list(objects.masks)) if objects.masks else ()
        for row in np.flatnonzero(np.array(areas) == 0):
            self._no_pixel.append(f"{objects.entries[row]} of {name}" if objects.entries else name)

    def notes(self) -> list[str]:
        """What was decided, a sentence each."""
        said = {
            _TURNED: "turned upright; their boxes refer to the turned image, by the width and "
            "height stated",
            _STORED: "turned upright, and their boxes with them, which refer to the stored image "
            "by the width and height stated",
            _EITHER: "turned upright; their boxes are taken to refer to the turned image, which "
            "the width and height stated do not tell",
            _SWAPPED: "with width and height exchanged in the annotations; those of the file hold",
        }
        return [f"{images_of(n)} {said[k]}" for k, n in sorted(self._taken.items()) if k in said]

    def warnings(self) -> list[str]:
        """What the user should look at, a sentence each."""
        said = []
        if count := self._taken[_SCALED]:
            said.append(
                f"{images_of(count)} larger or smaller than their annotations state, in equal "
                "proportion: boxes are scaled to the image"
            )
        if self._no_pixel:
            said.append(
                f"{len(self._no_pixel):,} masks without a pixel in their image, such as "
                f"{printable(self._no_pixel[0])}: their boxes are used as they are"
            )
        return said


def _turned(objects: Objects, header: Header) -> Objects:
    masks = objects.masks and tuple(turned(mask, header.orientation) for mask in objects.masks)
    boxes = turn_boxes(objects.boxes, header.orientation, header.upright)
    return replace(objects, boxes=boxes, masks=masks)


def _with_areas(objects: Objects, size: tuple[int, int]) -> Objects:
    """Areas filled in where none is stated: of the mask, else of the box."""
    unstated = ~(objects.areas > 0)
    if objects.masks and unstated.any():
        of_masks = coco_masks().area(list(objects.masks)).astype(np.float64)
        frames = np.array([mask["size"] for mask in objects.masks]).prod(1)
        areas = of_masks * (size[0] * size[1] / frames)  # masks stay at the size stated
    else:
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        areas = sides[:, 0] * sides[:, 1]
    return replace(objects, areas=np.where(unstated, areas, objects.areas))
