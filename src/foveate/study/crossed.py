"""The mean of scores that vary by seed and by image: crossed random effects.

A study trains with ``S`` seeds and scores each trained model on the same ``I`` held-out images.
Both are samples: other seeds and other images would have given other numbers. The model of a score
(or of the difference of two mechanisms' scores) ``y[s, i]`` is

    y[s, i] = mean + seed[s] + image[i] + rest[s, i]

with independent effects of variances ``v_seed``, ``v_image``, ``v_rest``. The two-way table of
mean squares estimates them without bias:

    E[MS_seed]  = v_rest + I * v_seed       S - 1 degrees of freedom
    E[MS_image] = v_rest + S * v_image      I - 1
    E[MS_rest]  = v_rest                    (S - 1)(I - 1)

so the grand mean's variance is ``(MS_seed + MS_image - MS_rest) / (S I)``. It is a combination of
mean squares, whose degrees of freedom are Satterthwaite's. With one image a seed (or one number a
seed, where images are not known) all of this is Student's t over the seeds.

Source: F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
Biometrics Bulletin 2 (1946). ``benchmarks/interval_coverage.py`` measures the coverage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

NEGLIGIBLE = 1e-12
"""A standard error below this is rounding: there is no spread to test against."""


@dataclass(frozen=True)
class CrossedMean:
    """A grand mean with its uncertainty over seeds and images.

    Attributes:
        mean: of all scores.
        error: its standard error; NaN with a single seed.
        df: Satterthwaite's degrees of freedom of that error; NaN with a single seed.
        seeds: ``S``.
        images: ``I``; 1 where scores of images are not known.
        v_seed: variance between seeds, at least 0.
        v_image: variance between images, at least 0.
        v_rest: what is left, at least 0.
    """

    mean: float
    error: float
    df: float
    seeds: int
    images: int
    v_seed: float
    v_image: float
    v_rest: float

    @property
    def testable(self) -> bool:
        """Whether there is a spread over seeds or images to test against."""
        return self.seeds > 1 and self.error > NEGLIGIBLE

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided interval of the mean; NaN where there is nothing to test against."""
        half = self.error * stats.t.ppf(0.5 + confidence / 2, self.df) if self.testable else nan
        return float(self.mean - half), float(self.mean + half)

    def p_above(self, value: float = 0.0) -> float:
        """One-sided p of the hypothesis that the true mean is at most ``value``."""
        if not self.testable:
            return nan
        return float(stats.t.sf((self.mean - value) / self.error, self.df))

    def p_below(self, value: float = 0.0) -> float:
        """One-sided p of the hypothesis that the true mean is at least ``value``."""
        return 1 - self.p_above(value)

    def p_two(self, value: float = 0.0) -> float:
        """Two-sided p of the hypothesis that the true mean is ``value``."""
        return 2 * min(self.p_above(value), self.p_below(value))

    def with_seeds(self, seeds: int) -> CrossedMean:
        """What as many seeds would give if the variances are as estimated here."""
        ms_seed = self.v_rest + self.images * self.v_seed
        ms_image = self.v_rest + seeds * self.v_image
        error, df = (
            (sqrt(ms_seed / seeds), seeds - 1.0)
            if self.images == 1
            else _combine(ms_seed, ms_image, self.v_rest, seeds, self.images)
        )
        return CrossedMean(
            self.mean, error, df, seeds, self.images, self.v_seed, self.v_image, self.v_rest
        )


def crossed_mean(scores: ArrayLike) -> CrossedMean:
    """Estimate the mean of ``scores (S, I)`` and its error over seeds and images.

    Args:
        scores: a row for each seed, a column for each image; a single column where only one
            number a seed is known.

    Raises:
        ValueError: if the table is empty, or not of two axes.
    """
    y = np.asarray(scores, dtype=float)
    if y.ndim != 2 or not y.size:
        raise ValueError(f"scores must be a table (seeds, images) that is not empty, got {y.shape}")
    seeds, images = y.shape
    mean = float(y.mean())
    if seeds == 1:
        return CrossedMean(mean, nan, nan, 1, images, nan, nan, nan)
    by_seed, by_image = y.mean(axis=1), y.mean(axis=0)
    ms_seed = images * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    if images == 1:
        error, df = sqrt(ms_seed / seeds), float(seeds - 1)
        return CrossedMean(mean, error, df, seeds, 1, ms_seed, 0.0, 0.0)
    ms_image = seeds * float(((by_image - mean) ** 2).sum()) / (images - 1)
    rest = y - by_seed[:, None] - by_image[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    error, df = _combine(ms_seed, ms_image, ms_rest, seeds, images)
    return CrossedMean(
        mean,
        error,
        df,
        seeds,
        images,
        max(ms_seed - ms_rest, 0.0) / images,
        max(ms_image - ms_rest, 0.0) / seeds,
        ms_rest,
    )


def _combine(
    ms_seed: float, ms_image: float, ms_rest: float, seeds: int, images: int
) -> tuple[float, float]:
    """Standard error of the grand mean and Satterthwaite's degrees of freedom.

    The combination may come out below one of its parts, by chance; it is kept at least as large as
    the larger of the two, whose degrees of freedom it then has.
    """
    combined = ms_seed + ms_image - ms_rest
    larger, its_df = max((ms_seed, seeds - 1.0), (ms_image, images - 1.0))
    if combined <= larger:
        return sqrt(larger / (seeds * images)), its_df
    # A mean square of few seeds is very uncertain. Taken at its face value it makes the degrees of
    # freedom too many, and 95 % intervals of 3 seeds cover 92.2 %; so it counts for more here.
    weighty = (1 + 4 / (seeds - 1)) * ms_seed
    df = (weighty + ms_image - ms_rest) ** 2 / (
        weighty**2 / (seeds - 1)
        + ms_image**2 / (images - 1)
        + ms_rest**2 / ((seeds - 1) * (images - 1))
    )
    return sqrt(combined / (seeds * images)), df


def pseudo_values(metric: Callable[[Array], float], counts: ArrayLike) -> Array:
    """Jackknife pseudo-values, so that a metric that is no mean over images can be treated as one.

    ``p[i] = I * metric(all) - (I - 1) * metric(all but i)``, moved so that their mean is
    ``metric(all)``. Their spread over images is the metric's own (Tukey 1958).

    Args:
        metric: of counts summed over images, for example of a confusion matrix ``(K, K)``.
        counts: ``(I, ...)``, what each image adds: one in a confusion matrix, or its pixels'.

    Raises:
        ValueError: with fewer than two images.
    """
    each = np.asarray(counts, dtype=float)
    if len(each) < 2:
        raise ValueError(f"a jackknife needs at least two images, got {len(each)}")
    total = each.sum(axis=0)
    return jackknife(metric(total), np.array([metric(total - one) for one in each]))


def balanced_accuracy_scores(labels: ArrayLike, correct: ArrayLike) -> Array:
    """Pseudo-values of balanced accuracy, the mean recall of the classes: one an image.

    Args:
        labels: ``(I,)``, the true class of each image.
        correct: ``(I,)``, whether it was predicted.

    Raises:
        ValueError: with fewer than two images.
    """
    of = np.unique(np.asarray(labels), return_inverse=True)[1]
    hit = np.asarray(correct, dtype=float)
    images = np.bincount(of).astype(float)
    hits = np.bincount(of, weights=hit)
    classes, recall = len(images), hits / images
    if len(hit) < 2:
        raise ValueError(f"a jackknife needs at least two images, got {len(hit)}")
    whole = float(recall.mean())
    # Leaving an image out changes its class's recall; a class of one image leaves with it.
    alone = images[of] == 1
    others = np.maximum(images[of] - 1, 1)
    without = whole + ((hits[of] - hit) / others - recall[of]) / classes
    if alone.any():
        without[alone] = (classes * whole - recall[of][alone]) / (classes - 1)
    return jackknife(whole, without)


def jackknife(whole: float, without: Array) -> Array:
    """Pseudo-values of a metric from its value of all images, and of all but each one.

    Args:
        whole: of all images.
        without: ``(I,)``, of all but the i-th.

    Raises:
        ValueError: with fewer than two images.
    """
    images = len(without)
    if images < 2:
        raise ValueError(f"a jackknife needs at least two images, got {images}")
    pseudo = images * whole - (images - 1) * without
    return pseudo - pseudo.mean() + whole
