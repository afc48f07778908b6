"""Whether a trial is one to judge a mechanism by.

A mechanism whose trials did not learn is not a worse mechanism: the recipe may have failed it. Each
trial is therefore looked at for itself:

* *at chance*: with ``n`` held-out images, ``n_k`` of class ``k`` of ``K`` and a share ``m`` in the
  largest class, its accuracy is not above the 95 % quantile of Binomial(n, m) / n, and its balanced
  accuracy not above ``1 / K + 1.645 sqrt(1/K (1 - 1/K) sum_k 1 / n_k) / K``;
  In segmentation the mean IoU (or whichever metric) is not above that of naming the class with most
  held-out pixels everywhere, by more than 1.645 of that one's standard errors over images;
  In detection the average precision is not above that of naming in each image the boxes of the
  next, by more than 1.645 of that one's standard errors;
* *diverged*: the loss is no number, or ends above that of the first epoch;
* *rising*: the straight line through the scores of the last quarter of the epochs rises by more
  than two independent scores of as many images differ by chance, ``sqrt(2 s (1 - s) / n)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from math import ceil, sqrt

import numpy as np
from scipy import stats

from foveate.metrics import Metric
from foveate.study.box_predictions import BoxPredictions
from foveate.study.pixel_predictions import PixelPredictions, always
from foveate.study.records import EpochRecord, Health, Predicted, Predictions

CONFIDENCE = 0.95


def assess(history: Sequence[EpochRecord], predictions: Predicted, metric: Metric) -> Health:
    """The health of a trial that has ended.

    Args:
        history: epoch by epoch.
        predictions: on the held-out images.
        metric: what the history's scores are.
    """
    at_chance, chance = _at_chance(predictions, metric)
    scores = [epoch.score for epoch in history]
    return Health(
        at_chance=at_chance,
        diverged=not history[-1].train_loss <= history[0].train_loss,
        rising=still_rising(
            scores, metric, len(predictions.images), _variance(predictions, metric)
        ),
        chance=chance,
    )


@singledispatch
def _at_chance(predictions: Predictions, metric: Metric) -> tuple[bool, float]:
    """Whether it is, and the score up to which it would be."""
    counts = np.bincount(predictions.labels)
    chance = chance_bound(counts)
    correct = predictions.correct
    recalls = np.bincount(predictions.labels, weights=correct)[counts > 0] / counts[counts > 0]
    at_chance = correct.mean() <= chance and recalls.mean() <= _guessing_bound(counts)
    return bool(at_chance), chance


@_at_chance.register
def _(predictions: PixelPredictions, metric: Metric) -> tuple[bool, float]:
    labelled = predictions.areas[:, 2]
    constant = always(labelled, int(labelled.astype(np.int64).sum(0).argmax()))
    bound = _bound(PixelPredictions(constant, predictions.images).scores(metric))
    return bool(predictions.scores(metric).mean() <= bound), bound


@_at_chance.register
def _(predictions: BoxPredictions, metric: Metric) -> tuple[bool, float]:
    bound = _bound(predictions.guessed(metric))
    return bool(predictions.scores(metric).mean() <= bound), bound


def _bound(scores: np.ndarray) -> float:
    """What the mean of chance's scores of images is below, in all but one of twenty test sets."""
    error = scores.std(ddof=1) / sqrt(len(scores))
    return float(scores.mean() + stats.norm.ppf(CONFIDENCE) * error)


@singledispatch
def _variance(predictions: Predictions, metric: Metric) -> float | None:
    """Of one image's score; None where it follows from the score itself."""
    return None


@_variance.register
def _(predictions: PixelPredictions | BoxPredictions, metric: Metric) -> float | None:
    return float(predictions.scores(metric).var(ddof=1))


def chance_bound(counts: np.ndarray) -> float:
    """The accuracy that always naming the largest class exceeds in one of twenty test sets.

    Args:
        counts: held-out images of each class.
    """
    total = int(counts.sum())
    return float(stats.binom.ppf(CONFIDENCE, total, counts.max() / total)) / total


def _guessing_bound(counts: np.ndarray) -> float:
    """The balanced accuracy that guessing exceeds in one of twenty test sets."""
    there = counts[counts > 0]
    chance = 1 / len(there)
    deviation = sqrt(chance * (1 - chance) * float((1 / there).sum())) / len(there)
    return chance + float(stats.norm.ppf(CONFIDENCE)) * deviation


def still_rising(
    scores: Sequence[float], metric: Metric, images: int, variance: float | None = None
) -> bool:
    """Whether scores, epoch by epoch, still improve at the end; see the module."""
    last = np.asarray(scores[-max(2, ceil(len(scores) / 4)) :], dtype=float)
    if len(last) < 2:
        return False
    slope = float(np.polyfit(np.arange(len(last)), last, 1)[0])
    gained = slope * (len(last) - 1) * (1 if metric.higher_is_better else -1)
    share = min(max(float(last.mean()), 1 / images), 1 - 1 / images)
    variance = share * (1 - share) if variance is None else variance
    return gained > sqrt(2 * variance / images)
