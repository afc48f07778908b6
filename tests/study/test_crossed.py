"""Crossed random effects against definitions, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from foveate.study.crossed import balanced_accuracy_scores, crossed_mean, pseudo_values


def draw(rng, seeds, images, v_seed, v_image, v_rest, mean=0.0):
    return (
        mean
        + v_seed**0.5 * rng.standard_normal((seeds, 1))
        + v_image**0.5 * rng.standard_normal((1, images))
        + v_rest**0.5 * rng.standard_normal((seeds, images))
    )


def test_one_number_a_seed_is_students_t():
    values = np.array([0.95, 0.96, 0.955, 0.99])
    found = crossed_mean(values[:, None])
    expected = stats.ttest_1samp(values, 0.9)
    assert found.df == 3
    assert found.error == pytest.approx(stats.sem(values))
    assert found.p_two(0.9) == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))
    more = found.with_seeds(8)
    assert more.error == pytest.approx(found.error / 2**0.5)
    assert more.df == 7


def test_components_are_unbiased_and_the_error_is_the_means():
    rng = np.random.default_rng(0)
    tables = [draw(rng, 4, 60, 0.5, 2.0, 1.0) for _ in range(1500)]
    found = [crossed_mean(table) for table in tables]
    assert np.mean([f.v_rest for f in found]) == pytest.approx(1.0, rel=0.05)
    assert np.mean([f.v_image for f in found]) == pytest.approx(2.0, rel=0.05)
    assert np.mean([f.v_seed for f in found]) == pytest.approx(0.5, rel=0.1)
    actual = 0.5 / 4 + 2.0 / 60 + 1.0 / 240
    assert np.var([f.mean for f in found]) == pytest.approx(actual, rel=0.1)
    assert np.mean([f.error**2 for f in found]) == pytest.approx(actual, rel=0.1)


@pytest.mark.parametrize("v_seed", [0.0, 2e-4, 2e-3, 2e-2])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover(seeds, v_seed):
    rng = np.random.default_rng(seeds)
    studies = 1500
    covered = sum(
        low <= 0.0 <= high
        for low, high in (
            crossed_mean(draw(rng, seeds, 200, v_seed, 0.04, 0.04)).interval()
            for _ in range(studies)
        )
    )
    assert covered / studies >= 0.925  # 95 % nominal, at least 93.9 % by a longer simulation


def test_more_seeds_do_not_remove_the_share_of_the_images():
    found = crossed_mean(draw(np.random.default_rng(0), 5, 100, 0.01, 1.0, 0.1))
    endless = found.with_seeds(100_000)
    assert endless.error**2 == pytest.approx(found.v_image / 100, rel=0.01)


def test_nothing_to_test_against():
    assert not crossed_mean([[0.0, 1.0, 1.0]]).testable
    assert not crossed_mean(np.ones((3, 4))).testable
    assert np.isnan(crossed_mean(np.ones((3, 4))).interval()[0])
    for empty in (np.empty((0, 3)), np.empty((3, 0)), np.ones(3)):
        with pytest.raises(ValueError, match="not empty"):
            crossed_mean(empty)


def test_pseudo_values_of_a_mean_are_its_scores():
    scores = np.array([0.0, 1.0, 1.0, 0.5])
    counts = np.stack([scores, np.ones(4)], axis=1)
    assert pseudo_values(lambda total: total[0] / total[1], counts) == pytest.approx(scores)
    with pytest.raises(ValueError, match="two images"):
        pseudo_values(lambda total: total[0], counts[:1])


def test_pseudo_values_of_balanced_accuracy():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2, 3], [40, 10, 5, 1])
    predicted = np.where(rng.random(labels.size) < 0.7, labels, 0)
    found = balanced_accuracy_scores(labels, predicted == labels)
    assert found.mean() == pytest.approx(balanced_accuracy_score(labels, predicted))
    counts = np.zeros((labels.size, 4, 2))
    counts[np.arange(labels.size), labels, 0] = 1
    counts[np.arange(labels.size), labels, 1] = predicted == labels

    def recall(total):
        present = total[:, 0] > 0
        return float((total[present, 1] / total[present, 0]).mean())

    assert found == pytest.approx(pseudo_values(recall, counts))


def test_the_spread_of_pseudo_values_is_the_metrics():
    """The jackknife's standard error beside that of many samples."""
    rng = np.random.default_rng(2)

    def sample():
        labels = rng.integers(0, 3, 300)
        return labels, rng.random(300) < np.array([0.9, 0.6, 0.5])[labels]

    many = [balanced_accuracy_score(y, np.where(hit, y, (y + 1) % 3)) for y, hit in
            (sample() for _ in range(400))]  # fmt: skip
    errors = [np.std(balanced_accuracy_scores(*sample()), ddof=1) / 300**0.5 for _ in range(20)]
    assert np.mean(errors) == pytest.approx(np.std(many), rel=0.15)
