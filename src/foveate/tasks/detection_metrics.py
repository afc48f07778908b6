"""How well objects are found: COCO's average precision, exactly, and without each of the images.

Detections of a class are matched image by image, best score first, each to the free object of
largest IoU that reaches the threshold ``t``. Over all images, sorted by score, with ``TP_n`` and
``FP_n`` matched and unmatched ones among the first n, and G objects:

    precision_n = TP_n / (TP_n + FP_n),   recall_n = TP_n / G
    AP_kt = mean over r = 0, .01, ..., 1 of max_{n: recall_n >= r} precision_n
    AP = mean over classes k and t = .50, .55, ..., .95

Objects outside a range of areas (small, medium, large), and crowd regions, count neither way, nor
do detections that they take; against a crowd, IoU is the share of the detection inside. A class
without an object has no AP, and means leave it out; a set without one has none (NaN, where
pycocotools writes -1). Detections in images without an object are false.

Matching needs one image at a time, and all that AP needs of it is whether each detection is right,
wrong or not counted at each threshold: a few bytes. So AP without an image, which jackknife
pseudo-values are made of, costs no matching again (:meth:`Evidence.left_out`).

Published code: cocodataset/cocoapi ``COCOeval``, pycocotools 2.0.11 (BSD), its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.utilities import dim_zero_cat

from foveate.arguments import one_of, positive
from foveate.data.annotations.masks import coco_masks

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

_BITS = 1 << np.arange(len(THRESHOLDS))
_SPACING = np.spacing(1)


class AveragePrecision(TorchMetric):
    """What became of every detection, and what it comes to.

    Args:
        num_classes: K.
        kind: ``"box"`` or ``"mask"``, whose IoU decides; names of figures of masks begin with
            ``mask_``. Masks need pycocotools.

    Raises:
        ValueError: if a number or a name is wrong, or pycocotools is needed and missing.
    """

    higher_is_better = None  # of several figures; the metrics of the task say it for each
    full_state_update = False
    scores: list[Tensor]
    detections: list[Tensor]
    objects: list[Tensor]
    images: list[Tensor]

    def __init__(self, num_classes: int, kind: Literal["box", "mask"] = "box") -> None:
        super().__init__()
        self.num_classes = positive(num_classes, "num_classes")
        self.kind = one_of(kind, ("box", "mask"), "kind")
        if kind == "mask":
            coco_masks()  # says what to install
        for state in ("scores", "detections", "objects", "images"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self, predicted: Iterable[Mapping[str, Tensor]], targets: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """Match the detections of a batch.

        Args:
            predicted: of each image ``boxes`` (D, 4) x1, y1, x2, y2, ``scores`` (D,), ``labels``
                (D,), and ``masks`` (D, H, W) or (D, 1, H, W), a share in [0, 1] or bool.
            targets: of each image ``boxes`` (N, 4), ``labels`` (N,), ``image_id`` (), and perhaps
                ``iscrowd`` (N,), ``area`` (N,) in pixels of the original image, ``scale`` (2,)
                pixels of the original a pixel, across and down, and ``masks`` (N, H, W).

        Raises:
            ValueError: if a label is none of a class.
        """
        for ours, theirs in zip(predicted, targets, strict=True):
            found = _match_image(_arrays(ours), _arrays(theirs), self.num_classes, self.kind)
            device = self.device
            self.images.append(theirs["image_id"].reshape(1).to(device))
            self.scores.append(torch.from_numpy(found.scores).to(device))
            self.detections.append(torch.from_numpy(found.detections).to(device))
            self.objects.append(torch.from_numpy(found.objects).to(device))

    @property
    def evidence(self) -> Evidence:
        """What became of every detection of all images so far."""
        states = (self.images, self.scores, self.detections, self.objects)
        widths = (), (), (3 + 2 * len(AREAS),), (2 + len(AREAS),)
        return Evidence(
            self.num_classes,
            *(
                dim_zero_cat(state).cpu().numpy() if state else np.zeros((0, *width), np.int32)
                for state, width in zip(states, widths, strict=True)
            ),
        )

    def compute(self) -> dict[str, float]:
        prefix = "" if self.kind == "box" else "mask_"
        return {f"{prefix}{name}": value for name, value in self.evidence.figures().items()}


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
        whole = self.precision(area)
        found = np.repeat(whole[None], len(self.images), 0)
        place = {number: row for row, number in enumerate(np.sort(self.images).tolist())}
        for label in range(self.num_classes):
            of_class = self._of_class(label, area)
            if of_class.count == 0:
                continue
            objects = of_class.objects_of
            for threshold, (counts, wrong, total) in enumerate(of_class.counts()):
                ours = of_class.images[of_class.right[:, threshold]]
                beyond = of_class.images[of_class.wrong[:, threshold]]
                before = np.cumsum(of_class.right[:, threshold])[of_class.wrong[:, threshold]]
                for number in objects:
                    kept = ours != number
                    # Wrong detections of the image, by how many right ones stand before each.
                    less = np.searchsorted(before[beyond == number], np.arange(len(ours)), "right")
                    left = _interpolated(
                        counts[: kept.sum()], (wrong - less)[kept], total - objects[number]
                    )
                    found[place[number], label, threshold] = left.mean()
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
        which = list(AREAS).index(one_of(area, AREAS, "area"))
        mine = self.detections[:, 1] == label
        # By image first, so that the order in which processes hand in their images is no matter.
        rows = np.flatnonzero(mine)
        rows = rows[np.lexsort((self.detections[rows, 2], self.detections[rows, 0]))]
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        chosen = self.detections[rows]
        right, wrong = (
            (chosen[:, column, None] & _BITS) > 0 for column in (3 + which, 3 + len(AREAS) + which)
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
    def objects_of(self) -> dict[int, int]:
        """Objects of each image without which precision may be another."""
        concerned = np.union1d(self.images, self.objects)
        starts = np.searchsorted(np.sort(self.objects), concerned)
        ends = np.searchsorted(np.sort(self.objects), concerned, "right")
        return dict(zip(concerned.tolist(), (ends - starts).tolist(), strict=True))

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


def pseudo_values(whole: float, left_out: np.ndarray) -> np.ndarray:
    """(N,) jackknife pseudo-values ``N w - (N - 1) w_i`` of a figure over N images.

    They stand for the share of each image in a figure that is no mean over images: their mean
    estimates it, and their standard error is its own (J. W. Tukey, 1958).

    Args:
        whole: the figure of all images.
        left_out: (N,) the figure without each.
    """
    count = len(left_out)
    return count * whole - (count - 1) * left_out


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


# Matching in one image


@dataclass(frozen=True)
class _Matched:
    scores: np.ndarray
    detections: np.ndarray
    objects: np.ndarray


def _arrays(given: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in given.items()}


def _match_image(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], num_classes: int, kind: str
) -> _Matched:
    """The rows of :class:`Evidence` that an image gives."""
    for what, labels in (("labels", theirs["labels"]), ("predictions", ours["labels"])):
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(f"{what} must be in [0, {num_classes - 1}], got {wrong[0]}")
    number, scale = int(theirs["image_id"]), np.ones(2)
    if "scale" in theirs:
        scale = theirs["scale"].astype(np.float64)
    truth = _shapes(theirs, scale, kind)
    found = _shapes(ours, scale, kind)
    crowd = theirs.get("iscrowd", np.zeros(len(truth.areas))).astype(bool)
    areas = theirs.get("area", truth.areas).astype(np.float64)
    low, high = np.array(list(AREAS.values())).T[..., None]  # (A, 1)
    ignored = crowd | (areas < low) | (areas > high)  # (A, N)
    outside = (found.areas < low) | (found.areas > high)  # (A, D)
    scores, rows = [], []
    for label in np.unique(ours["labels"]).tolist():
        mine = np.flatnonzero(ours["labels"] == label)
        mine = mine[np.argsort(-ours["scores"][mine], kind="stable")][:MOST]
        objects = np.flatnonzero(theirs["labels"] == label)
        iou = found.keep(mine).iou(truth.keep(objects), crowd[objects])
        right, wrong = _match(iou, crowd[objects], ignored[:, objects], outside[:, mine])
        scores.append(ours["scores"][mine])
        keys = np.stack([np.full(len(mine), number), np.full(len(mine), label)], 1)
        rows.append(
            np.concatenate([keys, np.arange(len(mine))[:, None], right @ _BITS, wrong @ _BITS], 1)
        )
    count = (~ignored).any(0)
    objects = np.concatenate(
        [np.full((len(areas), 1), number), theirs["labels"][:, None], (~ignored).T], 1
    )[count]
    nothing = np.zeros((0, 3 + 2 * len(AREAS)), int)
    return _Matched(
        np.concatenate([*scores, np.zeros(0)]).astype(np.float32),
        np.concatenate([*rows, nothing]).astype(np.int32),
        objects.astype(np.int32),
    )


def _match(
    iou: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(D, A, T) twice: whether a detection is right, and whether it is wrong.

    Args:
        iou: (D, N) of detections by falling score.
        crowd: (N,) objects that take any number.
        ignored: (A, N) objects that count neither way.
        outside: (A, D) detections that count neither way if no object takes them.
    """
    shape = (len(iou), len(ignored), len(THRESHOLDS))
    taken, uncounted = np.zeros(shape, bool), np.zeros(shape, bool)
    free = np.ones((*shape[1:], iou.shape[1]), bool)  # (A, T, N)
    counts = ~ignored[:, None]  # (A, 1, N)
    for row in np.flatnonzero((iou >= THRESHOLDS[0]).any(1)):
        can = free & (iou[row] >= THRESHOLDS[:, None])
        first = can & counts
        can = np.where(first.any(-1, keepdims=True), first, can)
        # Of equal ones the last, as published.
        best = iou.shape[1] - 1 - np.where(can, iou[row], -1.0)[..., ::-1].argmax(-1)  # (A, T)
        taken[row] = can.any(-1)
        uncounted[row] = taken[row] & np.take_along_axis(ignored, best, 1)
        area, threshold = np.nonzero(taken[row] & ~crowd[best])
        free[area, threshold, best[area, threshold]] = False
    right = taken & ~uncounted
    return right, ~taken & ~outside.T[..., None]


@dataclass(frozen=True)
class _Shapes:
    """Boxes (N, 4) as x, y, width, height, or masks as run lengths; and their areas."""

    boxes: np.ndarray
    runs: list[Any] | None
    areas: np.ndarray

    def keep(self, rows: np.ndarray) -> _Shapes:
        runs = None if self.runs is None else [self.runs[row] for row in rows]
        return _Shapes(self.boxes[rows], runs, self.areas[rows])

    def iou(self, others: _Shapes, crowd: np.ndarray) -> np.ndarray:
        """(D, N); against a crowd the share of the detection that is inside."""
        if len(self.areas) == 0 or len(others.areas) == 0:
            return np.zeros((len(self.areas), len(others.areas)))
        if self.runs is not None:
            return coco_masks().iou(self.runs, others.runs, crowd.astype(np.uint8))
        ours, theirs = self.boxes[:, None], others.boxes[None]
        low = np.maximum(ours[..., :2], theirs[..., :2])
        high = np.minimum(ours[..., :2] + ours[..., 2:], theirs[..., :2] + theirs[..., 2:])
        common = (high - low).clip(0).prod(-1)
        union = np.where(crowd, self.areas[:, None], self.areas[:, None] + others.areas - common)
        return common / np.maximum(union, np.finfo(np.float64).tiny)


def _shapes(given: dict[str, np.ndarray], scale: np.ndarray, kind: str) -> _Shapes:
    corners = given["boxes"].astype(np.float64).reshape(-1, 4) * np.tile(scale, 2)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    if kind == "box":
        return _Shapes(boxes, None, boxes[:, 2] * boxes[:, 3])
    mask = coco_masks()
    planes = given["masks"]
    planes = planes.reshape(len(boxes), *planes.shape[-2:])
    runs = [mask.encode(np.asfortranarray(plane >= 0.5, dtype=np.uint8)) for plane in planes]
    areas = mask.area(runs).astype(np.float64) if runs else np.zeros(0)
    return _Shapes(boxes, runs, areas * scale.prod())
