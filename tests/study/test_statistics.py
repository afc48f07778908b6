"""The statistics against scipy, by hand, and by simulation."""

from __future__ import annotations

import re
from math import inf, isnan

import numpy as np
import pytest
from scipy import stats

from foveate.metrics import Metric
from foveate.study.crossed import crossed_mean
from foveate.study.statistics import (
    compare,
    compare_with_controls,
    detectable,
    estimate,
    holm,
    judge,
    seeds_needed,
)

LOSS = Metric("loss", "", False, (0.0, inf))


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_interval_is_students():
    values = [0.95, 0.96, 0.955]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = estimate(by_seed(*values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert estimate(by_seed(0.9)).low is None
    assert estimate(by_seed(0.999, 1.0, 0.97)).high == 1.0
    with pytest.raises(ValueError, match="no accuracy"):
        estimate({})


def test_comparison_is_the_paired_t_test_over_shared_seeds():
    scores = {"a": by_seed(0.95, 0.96, 0.955, 0.99), "b": by_seed(0.94, 0.935, 0.95)}
    made = compare("a", "b", scores)
    expected = stats.ttest_rel([0.95, 0.96, 0.955], [0.94, 0.935, 0.95])
    interval = expected.confidence_interval(0.95)
    assert made is not None
    assert made.seeds == 3
    assert made.p == pytest.approx(expected.pvalue)
    assert (made.low, made.high) == pytest.approx((interval.low, interval.high))
    assert (made.images, made.seed_share) == (1, 1.0)
    assert compare("a", "b", {"a": {0: 0.9}, "b": {1: 0.9}}) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    corrected = holm([0.02, float("nan"), 0.01])
    assert corrected[0] == pytest.approx(0.02)
    assert isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.02)


def by_image(rng, rate: float, seeds: int = 4, images: int = 400, spread: float = 0.0):
    """Right or wrong for each image, by seed; images differ in difficulty."""
    hard = rng.normal(0, 1, images)
    luck = rng.normal(0, spread, (seeds, 1))
    latent = stats.norm.ppf(rate) * 2**0.5 + hard + luck + rng.normal(0, 1, (seeds, images))
    return dict(enumerate((latent > 0).astype(float)))


def test_comparison_takes_the_images_chance():
    rng = np.random.default_rng(0)
    scores = {"a": by_image(rng, 0.85), "b": by_image(rng, 0.75)}
    made = compare("a", "b", scores)
    assert made is not None
    assert (made.seeds, made.images) == (4, 400)
    by_seeds = compare(
        "a", "b", {n: {s: y.mean() for s, y in v.items()} for n, v in scores.items()}
    )
    assert by_seeds is not None
    assert made.difference == pytest.approx(by_seeds.difference)
    assert made.seed_share < 0.7  # no luck of the runs was drawn: the images' share is large
    assert made.error > by_seeds.error


def test_scores_of_images_beside_single_numbers_are_compared_by_seeds():
    rng = np.random.default_rng(0)
    made = compare("a", "b", {"a": by_image(rng, 0.8, 3), "b": by_seed(0.7, 0.71, 0.69)})
    assert made is not None
    assert (made.seeds, made.images) == (3, 1)


def test_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    spread, seeds, comparisons = 0.01, 5, 3
    samples = rng.normal(0, spread, (20_000, seeds))
    exact = np.array([-2, -1, 0, 1, 2]) * spread / 2.5**0.5  # standard deviation: the spread
    shift = detectable(crossed_mean(exact[:, None]), comparisons)
    found = stats.ttest_1samp(samples + shift, 0, axis=1).pvalue < 0.05 / comparisons
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_seeds_needed_make_the_difference_detectable():
    table = np.array([0.004, 0.012, -0.002])[:, None]
    found = crossed_mean(table)
    seeds = seeds_needed(found, 2)
    assert seeds is not None
    assert detectable(found.with_seeds(seeds), 2) <= found.mean
    assert detectable(found.with_seeds(seeds - 1), 2) > found.mean
    # Where the images' chance alone is larger than the difference, seeds do not help.
    few = crossed_mean(np.array([[1.0, 0, 0, 1, 0, -1], [1, 0, 0, 1, 0, -1], [1, 0, 0, 1, 0, 0]]))
    assert seeds_needed(few, 1) is None


def test_no_false_alarm_beyond_five_percent():
    """Equal mechanisms and controls: a study makes any claim in at most 5 % of cases."""
    rng = np.random.default_rng(0)
    studies = 300
    alarms = 0
    for _ in range(studies):
        names = ("a", "b", "c", "none", "depthwise")
        scores = {name: by_image(rng, 0.8, 3, 150, 0.05) for name in names}
        made = compare_with_controls(names[:3], names[3:], scores)
        alarms += any(comparison.shown for comparison in made)
    assert alarms / studies <= 0.05


def test_better_means_better_than_every_control():
    scores = {
        "good": by_seed(0.990, 0.991, 0.989, 0.990),
        "between": by_seed(0.940, 0.941, 0.939, 0.941),
        "none": by_seed(0.930, 0.931, 0.932, 0.929),
        "depthwise": by_seed(0.950, 0.950, 0.950, 0.951),
    }
    good, between = compare_with_controls(["good", "between"], ["none", "depthwise"], scores)
    assert good.shown
    assert good.second == "depthwise"
    assert not between.shown  # above one control, below the other
    assert between.difference == pytest.approx(-0.01, abs=1e-4)


def test_lower_is_better():
    error = Metric("error", "%", False, (0.0, 1.0))
    scores = {"a": by_seed(0.02, 0.021, 0.02, 0.019), "none": by_seed(0.06, 0.061, 0.059, 0.06)}
    verdict = judge(scores, ["none"], error)
    assert verdict.headline.startswith("a is better than none")
    assert "a is 4.0 points below none" in " ".join(verdict.sentences)


def test_what_did_not_learn_is_named_and_not_compared():
    scores = {"a": by_seed(0.95, 0.96, 0.94), "none": by_seed(0.955, 0.94, 0.951),
              "stuck": by_seed(0.1, 0.1, 0.11)}  # fmt: skip
    verdict = judge(scores, ["none"], unhealthy={"stuck": "3 of 3 trials at chance"})
    assert [c.first for c in verdict.comparisons] == ["a"]
    assert "stuck did not learn (3 of 3 trials at chance)" in " ".join(verdict.sentences)
    assert judge({"stuck": scores["stuck"]}, unhealthy={"stuck": "at chance"}).headline == (
        "Nothing can be compared: every row has trials at chance or diverged."
    )


def test_interval_of_a_single_mechanism_is_kept_in_bounds():
    rng = np.random.default_rng(3)
    found = estimate(by_image(rng, 0.995, 3, 60))
    assert found.high is not None
    assert found.high <= 1.0
    assert found.images == 60


CLEAR = {
    "good": by_seed(0.990, 0.991, 0.989, 0.990),
    "equal": by_seed(0.951, 0.948, 0.952, 0.949),
    "poor": by_seed(0.900, 0.902, 0.899, 0.901),
    "none": by_seed(0.930, 0.931, 0.932, 0.929),
    "depthwise": by_seed(0.950, 0.950, 0.950, 0.951),
}


def test_verdict_against_the_best_control():
    verdict = judge(CLEAR, ["none", "depthwise"])
    assert verdict.headline == (
        "good is better than the best control, depthwise, by more than the seeds explain."
    )
    text = " ".join(verdict.sentences)
    assert "good is 4.0 points above depthwise and the other controls" in text
    assert "poor is 5.0 points below depthwise" in text
    assert "equal: the difference to depthwise" in text
    assert "What can be said: no more than 0.3 points apart (90 %)" in text
    assert "over 3 comparisons" in text
    assert {c.first for c in verdict.comparisons} == {"good", "equal", "poor"}
    assert verdict.detectable == pytest.approx(0.0, abs=0.02)


def test_verdict_without_controls_compares_all_pairs():
    verdict = judge({name: CLEAR[name] for name in ("good", "equal", "poor")})
    assert len(verdict.comparisons) == 3
    assert verdict.headline == (
        "3 of 3 differences are larger than the seeds explain; good has the highest mean accuracy, "
        "99.0 %."
    )


def test_a_tie_names_all_that_share_the_place():
    same = by_seed(0.9, 0.92, 0.91)
    verdict = judge({"b": same, "a": by_seed(0.92, 0.9, 0.91), "c": by_seed(0.5, 0.6, 0.4)})
    assert "b and a have the highest mean accuracy, 91.0 %." in verdict.headline
    assert judge({"b": same, "a": same}).headline == (
        "No difference could be tested; b and a have the highest mean accuracy, 91.0 %."
    )


def test_a_difference_that_there_cannot_be_is_not_promised():
    scores = {"a": by_seed(0.95, 0.2, 0.9), "b": by_seed(0.5, 0.9, 0.4), "c": by_seed(0.9, 0.91)}
    verdict = judge(scores, ["b"])
    (wide,) = [made for made in verdict.comparisons if made.first == "a"]
    assert wide.detectable > wide.widest == pytest.approx(0.6)
    assert wide.room == pytest.approx(0.4)
    text = " ".join(verdict.sentences)
    assert "not even the largest difference that there can be, 60.0 points, would be" in text
    (made,) = judge({"a": scores["a"], "b": scores["b"]}, metric=LOSS).comparisons
    assert (made.room, made.widest) == (pytest.approx(2.05 / 3), inf)


def test_verdict_that_nothing_is_shown_says_what_would_have_been():
    verdict = judge({"a": by_seed(0.95, 0.96, 0.94), "none": by_seed(0.955, 0.94, 0.951)}, ["none"])
    assert verdict.headline.startswith("No mechanism is shown to be better than none")
    assert "would be found in four of five" in " ".join(verdict.sentences)
    assert verdict.detectable is not None
    assert verdict.detectable > 0.01


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": by_seed(0.9), "b": by_seed(0.8)}, "one seed"),
        ({"a": by_seed(0.9, 0.8), "b": by_seed(0.8, 0.7)}, "not testable"),
        ({"a": by_seed(0.9, 0.8)}, "nothing to compare"),
        ({"a": by_seed(0.9, 0.8), "b": {}}, "nothing to compare"),
    ],
)
def test_verdict_without_a_test(scores, message):
    verdict = judge(scores)
    assert re.match("No difference could be tested; a has|a has the highest", verdict.headline)
    assert message in " ".join(verdict.sentences)
    assert verdict.detectable is None


def test_verdict_of_nothing():
    assert judge({}).headline == "No trial has finished."
