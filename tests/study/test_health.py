"""At chance, diverged, still rising: each by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.metrics import ACCURACY
from foveate.study.health import assess, chance_bound, still_rising
from foveate.study.records import EpochRecord, Predictions


def predictions(labels, predicted) -> Predictions:
    return Predictions(
        np.asarray(predicted, np.uint16), np.asarray(labels, np.uint16), np.arange(len(labels))
    )


def history(*train_losses: float, scores=None) -> list[EpochRecord]:
    scores = scores or [0.5] * len(train_losses)
    return [
        EpochRecord(n, loss, loss, score, 1.0)
        for n, (loss, score) in enumerate(zip(train_losses, scores, strict=True), 1)
    ]


LABELS = np.repeat(np.arange(4), 50)


def test_guessing_is_at_chance_in_nineteen_of_twenty_test_sets():
    rng = np.random.default_rng(0)
    found = [
        assess(history(2, 1), predictions(LABELS, rng.integers(4, size=200)), ACCURACY).at_chance
        for _ in range(400)
    ]
    assert 0.9 < np.mean(found) < 0.99


def test_what_has_learned_is_not_at_chance():
    half = np.where(np.arange(200) % 2 == 0, LABELS, 0)
    health = assess(history(2, 1), predictions(LABELS, half), ACCURACY)
    assert not health.at_chance
    assert health.learned
    assert health.chance == chance_bound(np.array([50, 50, 50, 50])) == 0.3


def test_naming_the_largest_class_is_at_chance_and_finding_the_rare_one_is_not():
    labels = np.array([0] * 120 + [1] * 30)
    always = assess(history(2, 1), predictions(labels, np.zeros(150)), ACCURACY)
    assert always.at_chance
    found = np.array([0] * 90 + [1] * 60)  # no more hits, but of both classes
    assert (found == labels).mean() == 0.8
    assert not assess(history(2, 1), predictions(labels, found), ACCURACY).at_chance


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [((2.0, 1.0), False), ((2.0, 2.5), True), ((2.0, float("nan")), True), ((2.0,), False)],
)
def test_a_loss_that_ends_above_its_first_epoch_has_diverged(losses, diverged):
    health = assess(history(*losses), predictions(LABELS, LABELS), ACCURACY)
    assert health.diverged is diverged


@pytest.mark.parametrize(
    ("scores", "rising"),
    [
        ([0.1, 0.3, 0.5, 0.6, 0.70, 0.71, 0.715, 0.715], False),  # flat in the last quarter
        ([0.1, 0.2, 0.3, 0.4, 0.50, 0.60, 0.70, 0.80], True),
        ([0.8, 0.7, 0.6, 0.5, 0.40, 0.30, 0.20, 0.10], False),
        ([0.5], False),
    ],
)
def test_rising_is_more_than_the_images_leave_open(scores, rising):
    assert still_rising(scores, ACCURACY, images=600) is rising


def test_few_images_cannot_show_a_rise():
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65]
    assert still_rising(scores, ACCURACY, images=5000)
    assert not still_rising(scores, ACCURACY, images=50)
