"""What is known of the objects of an image, whatever file said it.

Boxes are ``x1, y1, x2, y2`` in pixels, ``0 <= x1 < x2 <= W``; a pixel is the square between its
index and the next, so that a box around the whole image is ``0, 0, W, H``. Labels are 0..K-1, in
the order of the classes; the ids that a file calls them by are in :class:`Category`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from foveate.data.findings import LeftOut


class Category(NamedTuple):
    """A class of objects; its label is its place in the list of categories.

    Attributes:
        id: by which annotation files call it; ids may have gaps.
        name: its name.
    """

    id: int
    name: str


Mask = Mapping[str, Any]
"""The pixels of an object: COCO's compressed run lengths, ``{"size": [H, W], "counts": bytes}``."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, N of them.

    Attributes:
        boxes: (N, 4) float64.
        labels: (N,) int64, in 0..K-1.
        crowd: (N,) whether it is a region of many objects, which is not learnt from and in which
            any number of detections counts neither way.
        areas: (N,) float64, pixels, by which objects are small, medium or large.
        masks: one for each, where they were asked for.
        entries: where the file says it, for messages.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    masks: tuple[Mask, ...] | None = None
    entries: tuple[str, ...] = ()

    @classmethod
    def none(cls) -> Objects:
        """No object."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, rows: np.ndarray) -> Objects:
        """Those of ``rows``, which is boolean (N,)."""
        numbers = np.flatnonzero(rows).tolist()
        return Objects(
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            self.areas[rows],
            None if self.masks is None else tuple(self.masks[i] for i in numbers),
            tuple(self.entries[i] for i in numbers) if self.entries else (),
        )

    def scaled(self, x: float, y: float) -> Objects:
        """The same in an image that is larger by these factors; masks stay as they are."""
        return replace(self, boxes=self.boxes * (x, y, x, y), areas=self.areas * (x * y))


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its objects, as a file states them.

    Attributes:
        name: path of the image relative to the root of the set.
        size: height and width as stated, or of the upright image where nothing is.
        objects: in it; boxes not yet clipped or checked against the image.
        split: one of ``foveate.data.sources.base.SPLITS``, or "".
    """

    name: str
    size: tuple[int, int]
    objects: Objects
    split: str = ""


@dataclass
class Annotations:
    """What annotation files hold, before any image is looked at.

    Attributes:
        kind: ``"COCO"``, ``"Pascal VOC"`` or ``"YOLO"``.
        categories: the classes, in the order of labels.
        images: in a fixed order.
        left_out: what is not used.
        notes: what was decided for the user, a sentence each.
        warnings: what may spoil a result, a sentence each.
    """

    kind: str
    categories: tuple[Category, ...]
    images: list[AnnotatedImage]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def categories_to_list(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Plain values, as a checkpoint or JSON holds them; also COCO's own form."""
    return [{"id": each.id, "name": each.name} for each in categories]


def categories_of(values: Sequence[Mapping[str, Any]]) -> tuple[Category, ...]:
    """What :func:`categories_to_list` gave."""
    return tuple(Category(int(each["id"]), str(each["name"])) for each in values)
