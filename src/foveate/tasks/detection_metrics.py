"""How well objects are found: COCO's average precision, exactly.

Detections of a class are matched image by image, best score first, each to the free object of
largest IoU that reaches the threshold. Objects outside a range of areas (small, medium, large), and
crowd regions, count neither way, nor do detections that they take; against a crowd, IoU is the
share of the detection inside. A class without an object has no AP, and means leave it out; a set
without one has none (NaN, where pycocotools writes -1). Detections in images without an object are
false. What the matches come to is in :mod:`foveate.average_precision`.

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
from foveate.average_precision import AREAS, BITS, MOST, THRESHOLDS, Evidence
from foveate.data.annotations.masks import coco_masks


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
            np.concatenate([keys, np.arange(len(mine))[:, None], right @ BITS, wrong @ BITS], 1)
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
