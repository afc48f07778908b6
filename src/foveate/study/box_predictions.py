"""What a trained model finds in images, kept as what became of each detection.

An average precision is no mean over images; its jackknife pseudo-values are
(:mod:`foveate.study.crossed`). AP without each image takes a while to compute where images are
many, so it is computed once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from foveate.average_precision import Evidence
from foveate.metrics import AP, AP50, AP75, MASK_AP, MASK_AP50, Metric
from foveate.study.crossed import jackknife

Array = np.ndarray


def _every(precision: Array) -> Array:
    return _mean(precision.reshape(*precision.shape[:-2], -1))


def _mean(values: Array) -> Array:
    """Over the last axis, without what is not defined; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


OF_BOXES: dict[str, Callable[[Array], Array]] = {
    AP.name: _every,
    AP50.name: lambda precision: _mean(precision[..., 0]),
    AP75.name: lambda precision: _mean(precision[..., 5]),
}
"""Metrics of AP (..., K, T) by class and threshold, by name."""

OF_MASKS: dict[str, Callable[[Array], Array]] = {
    MASK_AP.name: OF_BOXES[AP.name],
    MASK_AP50.name: OF_BOXES[AP50.name],
}
"""The same of masks."""


class BoxPredictions(NamedTuple):
    """What became of the detections of a trained model.

    Arrays are those of :class:`foveate.average_precision.Evidence`, whose numbers of images are
    places in ``images``.

    Attributes:
        images: (I,) uint32, which image of the held-out split; with folds, of the pooled splits.
        box_scores: (D,) float32, of each detection.
        box_detections: (D, 11) int32, what became of its box.
        box_objects: (M, 6) int32, what there is to be found.
        mask_scores: the same of masks; empty where none are learnt, as the next two.
        mask_detections: what became of its mask.
        mask_objects: what there is to be found.
        without: (I, F) float64, each metric of all images but one: those of boxes, then of masks.
        guess: (I, F) float64, of each metric the pseudo-values of naming in each image the boxes of
            the next.
        classes: () how many there are.
    """

    images: np.ndarray
    box_scores: np.ndarray
    box_detections: np.ndarray
    box_objects: np.ndarray
    mask_scores: np.ndarray
    mask_detections: np.ndarray
    mask_objects: np.ndarray
    without: np.ndarray
    guess: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(
        cls, images: np.ndarray, boxes: Evidence, masks: Evidence | None, guessed: Evidence
    ) -> BoxPredictions:
        """What evidence comes to.

        Args:
            images: (I,) which image stands at each place.
            boxes: of their boxes.
            masks: of their masks, if there are any.
            guessed: of naming in each image the boxes of the next.
        """
        nothing = [boxes.scores[:0], boxes.detections[:0], boxes.objects[:0]]
        of_masks = nothing if masks is None else [masks.scores, masks.detections, masks.objects]
        known = [*OF_BOXES.values(), *(OF_MASKS.values() if masks is not None else ())]
        each, whole = guessed.left_out(), guessed.precision()
        guess = [_pseudo_values(float(figure(whole)), figure(each)) for figure in known]
        return cls(
            images.astype(np.uint32),
            boxes.scores,
            boxes.detections,
            boxes.objects,
            *of_masks,
            _without(boxes, masks),
            np.stack(guess, 1),
            np.array(boxes.num_classes, dtype=np.uint32),
        )

    @classmethod
    def joined(cls, parts: Sequence[BoxPredictions]) -> BoxPredictions:
        """Those of several models, each of other images, as if they were of one."""
        images = np.concatenate([part.images for part in parts])
        order = np.argsort(images)
        places = np.argsort(order)
        starts = np.cumsum([0, *(len(part.images) for part in parts)])

        def together(name: str) -> np.ndarray:
            arrays = []
            for part, start in zip(parts, starts[:-1], strict=True):
                rows = getattr(part, name).copy()
                if rows.ndim > 1:
                    rows[:, 0] = places[start + rows[:, 0]]
                arrays.append(rows)
            return np.concatenate(arrays)

        found = cls(
            images[order],
            *(together(name) for name in cls._fields[1:7]),
            parts[0].without,
            np.concatenate([part.guess for part in parts])[order],
            parts[0].classes,
        )
        return found._replace(without=_without(found.boxes, found.masks))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it knows."""
        return tuple(OF_BOXES) if self.without.shape[1] == len(OF_BOXES) else (*OF_BOXES, *OF_MASKS)

    @property
    def boxes(self) -> Evidence:
        """What became of boxes."""
        return self._evidence(self.box_scores, self.box_detections, self.box_objects)

    @property
    def masks(self) -> Evidence | None:
        """What became of masks; None where none are learnt."""
        if self.without.shape[1] == len(OF_BOXES):
            return None
        return self._evidence(self.mask_scores, self.mask_detections, self.mask_objects)

    def of_metric(self, metric: Metric) -> Evidence:
        """That of boxes or masks which a metric is of.

        Raises:
            ValueError: if the metric is none of what was found.
        """
        found = self.masks if metric.name in OF_MASKS else self.boxes
        if metric.name not in self.metrics or found is None:
            raise ValueError(f"{metric.name} is no average precision of what was found")
        return found

    @property
    def found(self) -> np.ndarray:
        """(I,): AP50 of each image by itself; 1 where there is nothing to be found."""
        alone = _mean(self.boxes.alone())
        return np.where(np.isnan(alone), 1.0, alone)

    def scores(self, metric: Metric) -> np.ndarray:
        """(I,): the metric as a mean over images: jackknife pseudo-values.

        An image without which nothing is left to be found counts as one that changes nothing.

        Raises:
            ValueError: if the metric is none of what was found.
        """
        whole = (OF_BOXES | OF_MASKS)[metric.name](self.of_metric(metric).precision())
        return _pseudo_values(float(whole), self.without[:, self.metrics.index(metric.name)])

    def guessed(self, metric: Metric) -> np.ndarray:
        """(I,): the same of naming in each image the boxes of the next."""
        return self.guess[:, self.metrics.index(metric.name)]

    def _evidence(self, scores: Array, detections: Array, objects: Array) -> Evidence:
        images = np.arange(len(self.images))
        return Evidence(int(self.classes), images, scores, detections, objects)


def _without(boxes: Evidence, masks: Evidence | None) -> Array:
    of_boxes = boxes.left_out()
    columns = [figure(of_boxes) for figure in OF_BOXES.values()]
    if masks is not None:
        of_masks = masks.left_out()
        columns += [figure(of_masks) for figure in OF_MASKS.values()]
    return np.stack(columns, 1)


def _pseudo_values(whole: float, without: Array) -> Array:
    return jackknife(whole, np.where(np.isnan(without), whole, without))
