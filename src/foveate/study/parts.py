"""Which images of a prepared set a trial learns from, chooses by and is measured on.

As a rule these are the set's own splits. A selection part, by which an epoch or a learning rate is
chosen, is cut from the training images, never from those held out. With folds the training and the
held-out images are pooled and every image is held out once; images kept for the very end stay out.
All of it is a function of the labels alone: the class of an image, the rarest class of objects in
it, or of images with masks none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from foveate.data.annotations.record import AnnotatedImage
from foveate.data.images import AnnotatedImages, Images, ImageSet, MaskedImages
from foveate.data.moments import moments
from foveate.data.pixels.mask import class_pixels
from foveate.data.splitting import stratified_split

SELECTION = 0.2
"""The part of the training images that a choice is made on."""


class Part(Images):
    """Some of the images of one or more splits, by their numbers when these are strung together."""

    def __init__(self, splits: Sequence[Images], rows: Sequence[int]) -> None:
        self._splits = list(splits)
        ends = np.cumsum([len(split) for split in splits])
        found = np.searchsorted(ends, rows, side="right")
        self._places = [
            (int(which), int(row - (ends[which - 1] if which else 0)))
            for which, row in zip(found, rows, strict=True)
        ]
        self.labels = [self._splits[which].labels[row] for which, row in self._places]
        self.names = [self._splits[which].names[row] for which, row in self._places]

    def __getitem__(self, index: int) -> np.ndarray:
        which, row = self._places[index]
        return self._splits[which][row]

    def mask(self, index: int) -> np.ndarray:
        """The labels of an image, where its split has masks."""
        which, row = self._places[index]
        split = self._splits[which]
        if not isinstance(split, MaskedImages | Part):
            raise TypeError("these images have no masks")
        return split.mask(row)

    @cached_property
    def annotated(self) -> list[AnnotatedImage]:
        """The images with their objects, where their splits have any."""
        found = []
        for which, row in self._places:
            split = self._splits[which]
            if not isinstance(split, AnnotatedImages | Part):
                raise TypeError("these images have no objects")
            found.append(split.annotated[row])
        return found

    def __getstate__(self) -> dict:
        return dict(vars(self))

    @property
    def in_memory(self) -> bool:
        return all(split.in_memory for split in self._splits)


class Fold(NamedTuple):
    """What one model of a trial learns from and is measured on.

    Attributes:
        images: with ``train`` and ``test`` of this fold.
        held_out: the number of each held-out image: in its split, or among the pooled ones.
    """

    images: ImageSet
    held_out: np.ndarray


def folds(images: ImageSet, count: int | None, size: tuple[int, int]) -> list[Fold]:
    """The set as it is, or ``count`` folds of it, stratified by class.

    Args:
        images: the prepared set.
        count: how many; None for the set's own split.
        size: height and width to train at, for the moments of each fold's training images.

    Raises:
        ValueError: if a class has fewer images than there are folds.
    """
    if count is None:
        return [Fold(images, np.arange(len(images.test)))]
    splits = [images.train, images.test]
    labels = np.array(images.train.labels + images.test.labels)
    fold = _fold_numbers(labels, count, None if images.of_parts else images.classes)
    made = []
    for number in range(count):
        learning = Part(splits, np.flatnonzero(fold != number).tolist())
        rows = np.flatnonzero(fold == number)
        held_out = Part(splits, rows.tolist())
        found = moments(learning, size, images.channels)
        own = replace(images, train=learning, test=held_out, moments=found)
        if images.class_pixels is not None:
            own = replace(own, class_pixels=_class_pixels(learning, len(images.classes)))
        made.append(Fold(own, rows))
    return made


def with_selection(images: ImageSet) -> tuple[ImageSet, Images]:
    """The set without a part of its training images, and that part.

    Raises:
        ValueError: if a class has a single training image.
    """
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    if not images.of_parts and counts.min() < 2:
        name = images.classes[int(counts.argmin())]
        raise ValueError(
            f"class {name!r} has {counts.min()} image to train on; to cut off a part to choose by, "
            "every class needs two"
        )
    learning, chosen = stratified_split(images.train.labels, SELECTION)
    part = Part([images.train], chosen)
    return replace(images, train=Part([images.train], learning)), part


def _class_pixels(part: Part, classes: int) -> tuple[int, ...]:
    """Of each class, in the masks of a part."""
    counts = sum(class_pixels(part.mask(index), classes) for index in range(len(part)))
    return tuple(np.asarray(counts).tolist())


def _fold_numbers(labels: np.ndarray, count: int, classes: Sequence[str] | None) -> np.ndarray:
    """Of each image; within a class they go round, beginning where the class before ended."""
    rng = np.random.default_rng(0)
    numbers = np.empty(len(labels), dtype=int)
    begin = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if classes is not None and len(members) < count:
            raise ValueError(
                f"class {classes[label]!r} has {len(members)} images, fewer than folds={count}"
            )
        numbers[members] = (begin + np.arange(len(members))) % count
        begin = (begin + len(members)) % count
    return numbers
