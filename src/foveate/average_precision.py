"""COCO's average precision from what became of each detection, and AP without each of the images.

Over all images, sorted by score, with ``TP_n`` and ``FP_n`` right and wrong ones among the first n
detections, and G objects:

    precision_n = TP_n / (TP_n + FP_n),   recall_n = TP_n / G
    AP_kt = mean over r = 0, .01, ..., 1 of max_{n: recall_n >= r} precision_n
    AP = mean over classes k and t = .50, .55, ..., .95

All that it needs of a detection is whether it is right, wrong or not counted at each threshold of
IoU: a few bits. So AP without an image, which jackknife pseudo-values are made of, costs no
matching again (:meth:`Evidence.left_out`).

Published code: cocodataset/cocoapi ``COCOeval``, pycocotools 2.0.11 (BSD), its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Ranges of areas in pixels of the original image, both ends included."""

MOST = 100
"""Detections of a class in an image that count, those of highest score."""

BITS = 1 << np.arange(len(THRESHOLDS))
"""Of each threshold."""

_SPACING = np.spacing(1)
_AT_ONCE = 1 << 14
"""Elements of an array, so that it stays in a processor's cache."""


@dataclass(frozen=True)
class Evidence:
    """What became of every detection, in images that are in the order of their numbers.

    Attributes:
        num_classes: K.
        images: (N,) numbers of the images.
        scores: (D,) of detections.
        detections: (D, 3 + 2 A) integers of each: number of its image, class, rank within image and
            class, then for each of A ranges of areas the thresholds at which it is right, and
            then those at which it is wrong, as bits.
        objects: (M, 2 + A) of each that counts: number of its image, class, and whether it counts
            in each range of areas.
    """

    num_classes: int
    images: np.ndarray
    scores: np.ndarray
    detections: np.ndarray
    objects: np.ndarray

    def precision(self, area: str = "all") -> np.ndarray:
        """(K, T) AP of every class at every threshold; NaN for a class without an object."""
        return self.curves(area).mean(-1)

    def curves(self, area: str = "all") -> np.ndarray:
        """(K, T, R) precision at every recall 0, .01, ..., 1; NaN for a class without an object."""
        found = np.full((self.num_classes, len(THRESHOLDS), len(RECALLS)), np.nan)
        for label in range(self.num_classes):
            of_class = self._of_class(label, area)
            if of_class.count:
                found[label] = [_interpolated(*each) for each in of_class.counts()]
        return found

    def recall(self, area: str = "all", most: int = MOST) -> np.ndarray:
        """(K, T) share of objects found by at most so many detections of a class in an image."""
        found = np.full((self.num_classes, len(THRESHOLDS)), np.nan)
        for label in range(self.num_classes):
            of_class = self._of_class(label, area)
            if of_class.count:
                found[label] = of_class.right[of_class.ranks < most].sum(0) / of_class.count
        return found

    def left_out(self, area: str = "all") -> np.ndarray:
        """(N, K, T): :meth:`precision` of all images but each, in the order of their numbers."""
        found = np.repeat(self.precision(area)[None], len(self.images), 0)
        numbers = np.sort(self.images)
        for label in range(self.num_classes):
            of_class = self._of_class(label, area)
            if of_class.count == 0:
                continue
            concerned, objects = of_class.objects_of
            rows = np.searchsorted(numbers, concerned)
            for threshold, (right, wrong) in enumerate(
                zip(of_class.right.T, of_class.wrong.T, strict=True)
            ):
                found[rows, label, threshold] = _without_each(
                    concerned, of_class.images[right], of_class.images[wrong],
                    np.cumsum(wrong)[right], np.cumsum(right)[wrong], of_class.count - objects,
                )  # fmt: skip
        return found

    def alone(self, threshold: int = 0) -> np.ndarray:
        """(N, K) AP of each image by itself, in the order of their numbers, at one threshold."""
        found = np.full((len(self.images), self.num_classes), np.nan)
        numbers = np.sort(self.images)
        for label in range(self.num_classes):
            of_class = self._of_class(label, "all")
            for number, count in zip(*np.unique(of_class.objects, return_counts=True), strict=True):
                mine = of_class.images == number
                right = of_class.right[mine, threshold]
                before = np.cumsum(of_class.wrong[mine, threshold])[right]
                row = np.searchsorted(numbers, number)
                found[row, label] = _interpolated(
                    np.arange(1, len(before) + 1), before, int(count)
                ).mean()
        return found

    def figures(self) -> dict[str, float]:
        """COCO's twelve, by name; the mean over all classes that have an object."""
        every = self.precision()
        found = {
            "ap": _mean(every),
            "ap50": _mean(every[:, 0]),
            "ap75": _mean(every[:, 5]),
        }
        ranges = [name for name in AREAS if name != "all"]
        found |= {f"ap_{name}": _mean(self.precision(name)) for name in ranges}
        found |= {f"ar{most}": _mean(self.recall(most=most)) for most in (1, 10, MOST)}
        found |= {f"ar_{name}": _mean(self.recall(name)) for name in ranges}
        return found

    def _of_class(self, label: int, area: str) -> _OfClass:
        if area not in AREAS:
            raise ValueError(f"area must be one of {', '.join(AREAS)}, got {area!r}")
        which = list(AREAS).index(area)
        mine = self.detections[:, 1] == label
        # By image first, so that the order in which processes hand in their images is no matter.
        rows = np.flatnonzero(mine)
        rows = rows[np.lexsort((self.detections[rows, 2], self.detections[rows, 0]))]
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        chosen = self.detections[rows]
        right, wrong = (
            (chosen[:, column, None] & BITS) > 0 for column in (3 + which, 3 + len(AREAS) + which)
        )
        counted = (self.objects[:, 1] == label) & (self.objects[:, 2 + which] > 0)
        return _OfClass(chosen[:, 0], chosen[:, 2], right, wrong, self.objects[counted, 0])


@dataclass(frozen=True)
class _OfClass:
    """Detections of a class by falling score, and its objects, in a range of areas."""

    images: np.ndarray  # (D,)
    ranks: np.ndarray  # (D,)
    right: np.ndarray  # (D, T)
    wrong: np.ndarray  # (D, T)
    objects: np.ndarray  # (G,) the image of each

    @property
    def count(self) -> int:
        return len(self.objects)

    @property
    def objects_of(self) -> tuple[np.ndarray, np.ndarray]:
        """Images without which precision may be another, and the objects of each."""
        concerned = np.union1d(self.images, self.objects)
        ordered = np.sort(self.objects)
        starts = np.searchsorted(ordered, concerned)
        return concerned, np.searchsorted(ordered, concerned, "right") - starts

    def counts(self) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """At every threshold: 1, 2, ... right ones, the wrong ones before each, and objects."""
        found = []
        for right, wrong in zip(self.right.T, self.wrong.T, strict=True):
            before = np.cumsum(wrong)[right]
            found.append((np.arange(1, len(before) + 1), before, self.count))
        return found


def _interpolated(right: np.ndarray, wrong: np.ndarray, objects: int) -> np.ndarray:
    """(R,) precision by recall, from that at right detections: between them it only falls.

    Args:
        right: 1, 2, ..., n.
        wrong: (n,) how many wrong ones stand before each.
        objects: how many there are; without one there is no precision.
    """
    if objects == 0:
        return np.full(len(RECALLS), np.nan)
    best = np.maximum.accumulate((right / (wrong + right + _SPACING))[::-1])[::-1]
    first = np.searchsorted(right / objects, RECALLS, side="left")
    return np.append(best, 0.0)[first]


def _without_each(
    images: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    wrong: np.ndarray,
    before: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    """(C,) AP of a class at a threshold without each of C images.

    Args:
        images: (C,) their numbers, in order.
        ours: (n,) image of each right detection, by falling score.
        theirs: (m,) image of each wrong one, likewise.
        wrong: (n,) how many wrong ones stand before each right one.
        before: (m,) how many right ones stand before each wrong one.
        objects: (C,) how many there are without the image.
    """
    count, step = len(ours), max(1, _AT_ONCE // max(len(ours), len(RECALLS)))
    found = np.full(len(images), np.nan)
    # How many right ones it takes to reach each recall, by how many objects there are.
    needed = {
        total: 1 + np.searchsorted(np.arange(1, count + 1) / max(total, 1), RECALLS)
        for total in np.unique(objects).tolist()
    }
    for first in range(0, len(images), step):
        chunk = slice(first, first + step)
        kept = ours != images[chunk, None]  # (C, n)
        less = np.zeros((len(kept), count + 1))  # wrong ones of the image before each right one
        mine = np.flatnonzero(np.isin(theirs, images[chunk]))
        np.add.at(less, (np.searchsorted(images[chunk], theirs[mine]), before[mine]), 1)
        right = np.cumsum(kept, 1)
        precision = right / (wrong - np.cumsum(less, 1)[:, :count] + right + _SPACING)
        best = np.maximum.accumulate(np.where(kept, precision, 0.0)[:, ::-1], 1)[:, ::-1]
        best = np.concatenate([best, np.zeros((len(kept), 1))], 1)
        place = np.full((len(kept), len(RECALLS)), count)
        for row, total in enumerate(objects[chunk]):
            place[row] = np.searchsorted(right[row], needed[int(total)])
        averaged = np.take_along_axis(best, place, 1).mean(1)
        found[chunk] = np.where(objects[chunk] > 0, averaged, np.nan)
    return found


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
