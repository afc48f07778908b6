"""Simulated studies: how often the intervals of a study cover the truth, and how often it errs.

Whether an image is recognised is decided by a latent sum: the mechanism's skill, the image's
difficulty (shared by all, and of its own for each mechanism), the training run's luck, and a rest.
The true accuracy follows from the sum's variance, so that coverage is measured against the truth:

    python -m benchmarks.interval_coverage [--studies 800] [--images 500] [--metric accuracy]

With ``--metric mean_iou`` images have pixels: areas of six classes, the rarest in one image of
four. Of each the share that is found is decided by such a sum, now of classes as well; the rest is
taken for the other classes in proportion. The true mean IoU is that of endless images, averaged
over endless seeds, from a large simulation. Scores are the pseudo-values that a study takes.

With ``--metric ap`` images have objects of three classes, the rarest in three images of ten. The
sum decides how well an object's box fits (its IoU), and with a rest its score; each class has wrong
boxes as well. The true AP is likewise that of endless images.

It prints, by setting and number of seeds: coverage of the 95 % interval of a difference by crossed
effects and by Student's t over seeds, the ratio of their mean widths, coverage for one mechanism's
accuracy, and the share of studies of equal mechanisms in which any claim is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

from foveate.average_precision import AREAS, BITS, THRESHOLDS, Evidence
from foveate.metrics import AP, MEAN_IOU
from foveate.study.box_predictions import OF_BOXES
from foveate.study.crossed import crossed_mean, jackknife
from foveate.study.pixel_predictions import mean_iou
from foveate.study.statistics import judge


@dataclass(frozen=True)
class Setting:
    """Standard deviations of the latent effects; the rest has 1."""

    name: str
    seed: float
    image: float
    image_of_mechanism: float
    accuracy: float = 0.8


SETTINGS = (
    Setting("seeds' share large", seed=0.25, image=1.0, image_of_mechanism=0.3),
    Setting("seeds' share middling", seed=0.10, image=1.0, image_of_mechanism=0.6),
    Setting("seeds' share small", seed=0.02, image=1.0, image_of_mechanism=1.0),
    Setting("no seed effect", seed=0.0, image=1.5, image_of_mechanism=1.0),
    Setting("near the ceiling", seed=0.10, image=1.5, image_of_mechanism=0.6, accuracy=0.97),
)


def study(
    rng: np.random.Generator, setting: Setting, shifts: np.ndarray, seeds: int, images: int
) -> np.ndarray:
    """Right or wrong ``(mechanisms, seeds, images)``, skills differing by ``shifts``."""
    spread = _spread(setting)
    base = stats.norm.ppf(setting.accuracy) * spread
    count = len(shifts)
    latent = (
        base
        + shifts[:, None, None]
        + setting.seed * rng.standard_normal((count, seeds, 1))
        + setting.image * rng.standard_normal((1, 1, images))
        + setting.image_of_mechanism * rng.standard_normal((count, 1, images))
        + rng.standard_normal((count, seeds, images))
    )
    return (latent > 0).astype(float)


def truth(setting: Setting, shifts: np.ndarray) -> np.ndarray:
    """The accuracies that endless seeds and images would give."""
    spread = _spread(setting)
    return stats.norm.cdf(stats.norm.ppf(setting.accuracy) + shifts / spread)


def _spread(setting: Setting) -> float:
    return sqrt(setting.seed**2 + setting.image**2 + setting.image_of_mechanism**2 + 1)


@dataclass(frozen=True)
class PixelSetting:
    """Standard deviations of the effects on the logit of a class's share that is found."""

    name: str
    seed: float
    image: float
    image_of_mechanism: float
    rest: float = 0.5


PIXEL_SETTINGS = (
    PixelSetting("pixels, seeds large", seed=0.25, image=1.0, image_of_mechanism=0.3),
    PixelSetting("pixels, seeds middling", seed=0.10, image=1.0, image_of_mechanism=0.6),
    PixelSetting("pixels, seeds small", seed=0.02, image=1.0, image_of_mechanism=1.0),
)

_SHARES = np.array([0.40, 0.25, 0.15, 0.11, 0.07, 0.02])
_PRESENT = np.array([1.0, 0.95, 0.8, 0.6, 0.4, 0.25])
_SKILL = np.array([3.0, 2.0, 1.5, 1.0, 0.3, -0.5])


def areas(
    rng: np.random.Generator, setting: PixelSetting, shifts: np.ndarray, seeds: int, images: int
) -> np.ndarray:
    """Areas ``(mechanisms, seeds, images, 3, classes)``: intersected, predicted, labelled."""
    count, classes = len(shifts), len(_SHARES)
    there = rng.random((images, classes)) < _PRESENT
    labelled = there * rng.gamma(2.0, _SHARES / _PRESENT / 2, (images, classes))

    def draw(deviation: float, *shape: int) -> np.ndarray:
        return deviation * rng.standard_normal((*shape, classes))

    logit = (
        _SKILL
        + shifts[:, None, None, None]
        + draw(setting.seed, count, seeds, 1)
        + draw(setting.image, 1, 1, images)
        + draw(setting.image_of_mechanism, count, 1, images)
        + draw(setting.rest, count, seeds, images)
    )
    hits = labelled / (1 + np.exp(-logit))
    missed = labelled - hits
    instead = _SHARES / (1 - _SHARES)[:, None]  # of a class, what its missed pixels are taken for
    np.fill_diagonal(instead, 0.0)
    predicted = hits + missed @ instead
    return np.stack([hits, predicted, np.broadcast_to(labelled, hits.shape)], axis=-2)


def pixel_scores(found: np.ndarray) -> np.ndarray:
    """Pseudo-values ``(mechanisms, seeds, images)`` of the mean IoU."""
    total = found.sum(2, keepdims=True)
    whole, without = mean_iou(total[:, :, 0]), mean_iou(total - found)
    return np.array(
        [
            [jackknife(float(one), each) for one, each in zip(*rows, strict=True)]
            for rows in zip(whole, without, strict=True)
        ]
    )


def pixel_truth(setting: PixelSetting, shifts: np.ndarray) -> np.ndarray:
    """The mean IoU of endless images, over endless seeds."""
    rng = np.random.default_rng(99)
    parts = [mean_iou(areas(rng, setting, shifts, 10, 4000).sum(2)) for _ in range(30)]
    return np.concatenate(parts, axis=1).mean(axis=1)


@dataclass(frozen=True)
class BoxSetting:
    """Standard deviations of the effects on how well a box fits; the rest has 1."""

    name: str
    seed: float
    image: float
    image_of_mechanism: float


BOX_SETTINGS = (
    BoxSetting("boxes, seeds large", seed=0.15, image=0.6, image_of_mechanism=0.2),
    BoxSetting("boxes, seeds middling", seed=0.06, image=0.6, image_of_mechanism=0.4),
    BoxSetting("boxes, seeds small", seed=0.01, image=0.6, image_of_mechanism=0.6),
)

_THERE = np.array([1.0, 0.8, 0.3])
_OBJECTS = np.array([3.0, 0.5, 0.2])
"""Of a class where it is there, beside one: the mean of a Poisson distribution."""
_FIT = np.array([1.8, 1.2, 0.8])
_FALSE = 1.0
"""Wrong boxes of a class in an image, on average."""


def boxes(
    rng: np.random.Generator, setting: BoxSetting, shifts: np.ndarray, seeds: int, images: int
) -> list[list[Evidence]]:
    """What became of detections, by mechanism and seed."""
    count, classes = len(shifts), len(_THERE)
    number = (rng.random((images, classes)) < _THERE) * (
        1 + rng.poisson(_OBJECTS, (images, classes))
    )
    of, label = (
        np.repeat(places, number.ravel()) for places in np.indices(number.shape).reshape(2, -1)
    )
    objects = np.concatenate([of[:, None], label[:, None], np.ones((len(of), len(AREAS)), int)], 1)
    skill = (
        _FIT
        + shifts[:, None, None, None]
        + setting.seed * rng.standard_normal((count, seeds, 1, classes))
        + setting.image * rng.standard_normal((1, 1, images, classes))
        + setting.image_of_mechanism * rng.standard_normal((count, 1, images, classes))
    )  # (mechanisms, seeds, images, classes)
    return [[_found(rng, one, of, label, objects) for one in mine] for mine in skill]


def _found(
    rng: np.random.Generator,
    skill: np.ndarray,
    of: np.ndarray,
    label: np.ndarray,
    objects: np.ndarray,
) -> Evidence:
    """One trained model's detections: a box an object, and wrong ones."""
    images, classes = skill.shape
    fit = skill[of, label] + rng.standard_normal(len(of))
    iou = 1 - 0.5 * np.exp(-fit)
    false = np.indices(skill.shape).reshape(2, -1).repeat(rng.poisson(_FALSE, skill.size), 1)
    scores = np.concatenate([fit, rng.standard_normal(false.shape[1]) - 0.5])
    scores[: len(of)] += 0.7 * rng.standard_normal(len(of))
    rows = np.zeros((len(scores), 3 + 2 * len(AREAS)), dtype=int)
    rows[:, :2] = np.concatenate([np.stack([of, label]), false], 1).T
    rows[:, 2] = np.arange(len(rows))
    rows[: len(of), 3] = (iou[:, None] >= THRESHOLDS) @ BITS
    rows[:, 3 + len(AREAS)] = BITS.sum() - rows[:, 3]
    return Evidence(classes, np.arange(images), scores, rows, objects)


def box_scores(found: list[list[Evidence]]) -> np.ndarray:
    """Pseudo-values ``(mechanisms, seeds, images)`` of AP."""
    ap = OF_BOXES[AP.name]
    return np.array(
        [
            [jackknife(float(ap(one.precision())), ap(one.left_out())) for one in mine]
            for mine in found
        ]
    )


def box_truth(setting: BoxSetting, shifts: np.ndarray) -> np.ndarray:
    """The AP of endless images, over endless seeds."""
    rng = np.random.default_rng(99)
    ap = OF_BOXES[AP.name]
    parts = [
        [
            [float(ap(one.precision())) for one in mine]
            for mine in boxes(rng, setting, shifts, 10, 2000)
        ]
        for _ in range(10)
    ]
    return np.concatenate(parts, axis=1).mean(axis=1)


AnySetting = Setting | PixelSetting | BoxSetting


@dataclass(frozen=True)
class Row:
    """What a setting and number of seeds gave; shares of studies but for the ratio."""

    setting: str
    seeds: int
    difference: float
    by_seeds: float
    width_ratio: float
    single: float
    false_claims: float


def scores_of(
    rng: np.random.Generator,
    setting: AnySetting,
    shifts: np.ndarray,
    seeds: int,
    images: int,
) -> np.ndarray:
    """Of a simulated study the scores ``(mechanisms, seeds, images)``."""
    if isinstance(setting, PixelSetting):
        return pixel_scores(areas(rng, setting, shifts, seeds, images))
    if isinstance(setting, BoxSetting):
        return box_scores(boxes(rng, setting, shifts, seeds, images))
    return study(rng, setting, shifts, seeds, images)


def truth_of(setting: AnySetting, shifts: np.ndarray) -> np.ndarray:
    """The scores that endless seeds and images would give."""
    if isinstance(setting, PixelSetting):
        return pixel_truth(setting, shifts)
    return box_truth(setting, shifts) if isinstance(setting, BoxSetting) else truth(setting, shifts)


def measure(setting: AnySetting, seeds: int, studies: int, images: int, claiming: int) -> Row:
    """Simulate studies of one setting; the generator's seed is fixed."""
    rng = np.random.default_rng(seeds)
    shifts = np.array([0.0, 0.1])
    actual = truth_of(setting, shifts)
    covered, student, single = [], [], []
    widths: list[tuple[float, float]] = []
    for _ in range(studies):
        first, second = scores_of(rng, setting, shifts, seeds, images)
        low, high = crossed_mean(second - first).interval()
        t_low, t_high = crossed_mean((second - first).mean(axis=1, keepdims=True)).interval()
        covered.append(low <= actual[1] - actual[0] <= high)
        student.append(t_low <= actual[1] - actual[0] <= t_high)
        widths.append((high - low, t_high - t_low))
        low, high = crossed_mean(first).interval()
        single.append(low <= actual[0] <= high)
    mean = np.nanmean(widths, axis=0)
    claims = [_claims(rng, setting, seeds, images) for _ in range(claiming)]
    return Row(
        setting.name,
        seeds,
        float(np.mean(covered)),
        float(np.mean(student)),
        float(mean[0] / mean[1]),
        float(np.mean(single)),
        float(np.mean(claims)) if claims else np.nan,
    )


def _claims(rng: np.random.Generator, setting: AnySetting, seeds: int, images: int) -> bool:
    """Whether a study of five equal mechanisms and two equal controls claims any difference."""
    table = scores_of(rng, setting, np.zeros(7), seeds, images)
    names = ["a", "b", "c", "d", "e", "none", "depthwise"]
    scores = {name: dict(enumerate(rows)) for name, rows in zip(names, table, strict=True)}
    verdict = judge(scores, ["none", "depthwise"])
    return any(comparison.shown for comparison in verdict.comparisons)


def rows(
    studies: int,
    images: int,
    settings: Sequence[AnySetting] = SETTINGS,
    seeds: Sequence[int] = (3, 5, 10),
    claiming: int | None = None,
) -> Iterator[Row]:
    """All settings at each number of seeds."""
    for setting in settings:
        for count in seeds:
            yield measure(
                setting, count, studies, images, studies if claiming is None else claiming
            )


_SETTINGS: dict[str, Sequence[AnySetting]] = {
    "accuracy": SETTINGS,
    MEAN_IOU.name: PIXEL_SETTINGS,
    AP.name: BOX_SETTINGS,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=800)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--metric", choices=_SETTINGS, default="accuracy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument(
        "--claims", type=int, help="studies of equal mechanisms; as many by default"
    )
    options = parser.parse_args()
    print(f"{options.studies} studies a line, {options.images} held-out images")
    print(f"{'setting':24}{'seeds':>6}{'crossed':>9}{'t':>7}{'width':>7}{'single':>8}{'claims':>8}")
    settings = _SETTINGS[options.metric]
    for row in rows(options.studies, options.images, settings, options.seeds, options.claims):
        print(
            f"{row.setting:24}{row.seeds:6}{row.difference:9.1%}{row.by_seeds:7.1%}"
            f"{row.width_ratio:7.2f}{row.single:8.1%}{row.false_claims:8.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
