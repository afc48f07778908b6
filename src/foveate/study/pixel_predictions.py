"""What a trained model says of the pixels of images, kept as areas of each image and class.

    IoU_k = I_k / (P_k + L_k - I_k)

of the areas intersected, predicted and labelled, summed over images. A mean IoU is thus no mean
over images; its jackknife pseudo-values are (:mod:`foveate.study.crossed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from foveate.metrics import MEAN_CLASS_ACCURACY, MEAN_DICE, MEAN_IOU, PIXEL_ACCURACY, Metric
from foveate.study.crossed import jackknife

Array = np.ndarray


class PixelPredictions(NamedTuple):
    """The areas of a trained model's predictions.

    Attributes:
        areas: (I, 3, K) uint32, of every image and class: intersected, predicted, labelled.
        images: (I,) uint32, which image of the held-out split; with folds, of the pooled splits.
    """

    areas: np.ndarray
    images: np.ndarray

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it knows."""
        return tuple(METRICS)

    @classmethod
    def joined(cls, parts: Sequence[PixelPredictions]) -> PixelPredictions:
        """Those of several models, each of other images, in the order of the images."""
        return cls(*in_order(parts))

    @property
    def found(self) -> np.ndarray:
        """(I,): the share of each image's pixels whose class is found; 1 where none counts."""
        hits, _, labelled = np.moveaxis(self.areas.astype(float).sum(2), 1, 0)
        return np.where(labelled > 0, hits / np.maximum(labelled, 1), 1.0)

    @property
    def whole(self) -> np.ndarray:
        """(3, K): areas of all images together."""
        return self.areas.astype(np.int64).sum(0)

    def scores(self, metric: Metric) -> np.ndarray:
        """(I,): the metric as a mean over images: jackknife pseudo-values.

        Raises:
            ValueError: if the metric is none of areas.
        """
        if metric.name not in METRICS:
            raise ValueError(f"{metric.name} is no function of areas")
        total, each = self.whole.astype(float), self.areas.astype(float)
        of = METRICS[metric.name]
        return jackknife(float(of(total)), of(total - each))


def in_order(parts: Sequence[Any]) -> list[np.ndarray]:
    """Arrays of tuples that have ``images``, field by field, in the order of these."""
    order = np.argsort(np.concatenate([part.images for part in parts]))
    return [np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)]


def always(labelled: Array, largest: int) -> Array:
    """Areas (..., 3, K) of a model that names one class everywhere.

    Args:
        labelled: (..., K), areas of the true classes.
        largest: the class that it names.
    """
    predicted, hits = np.zeros_like(labelled), np.zeros_like(labelled)
    predicted[..., largest] = labelled.sum(-1)
    hits[..., largest] = labelled[..., largest]
    return np.stack([hits, predicted, labelled], axis=-2)


def mean_iou(areas: Array) -> Array:
    """Of areas (..., 3, K): the mean over the classes that are labelled or predicted."""
    hits, predicted, labelled = _parts(areas)
    return _mean(hits, predicted + labelled - hits)


def iou(areas: Array) -> Array:
    """(..., K): of each class; NaN where it is neither labelled nor predicted."""
    hits, predicted, labelled = _parts(areas)
    union = predicted + labelled - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def _pixel_accuracy(areas: Array) -> Array:
    hits, _, labelled = _parts(areas)
    return hits.sum(-1) / np.maximum(labelled.sum(-1), 1)


def _class_accuracy(areas: Array) -> Array:
    hits, _, labelled = _parts(areas)
    return _mean(hits, labelled)


def _dice(areas: Array) -> Array:
    hits, predicted, labelled = _parts(areas)
    return _mean(2 * hits, predicted + labelled)


def _parts(areas: Array) -> tuple[Array, Array, Array]:
    return areas[..., 0, :], areas[..., 1, :], areas[..., 2, :]


def _mean(part: Array, whole: Array) -> Array:
    there = whole > 0
    shares = np.where(there, part / np.maximum(whole, 1), 0.0)
    return shares.sum(-1) / np.maximum(there.sum(-1), 1)


METRICS: dict[str, Callable[[Array], Array]] = {
    MEAN_IOU.name: mean_iou,
    PIXEL_ACCURACY.name: _pixel_accuracy,
    MEAN_CLASS_ACCURACY.name: _class_accuracy,
    MEAN_DICE.name: _dice,
}
"""Metrics of areas (..., 3, K), by name."""
