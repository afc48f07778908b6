"""The statistics against scipy, by hand, and by simulation."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from scipy import stats

from foveate.study.statistics import (
    compare,
    compare_all,
    estimate,
    holm,
    judge,
    smallest_detectable,
)


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
    # Hedges: the mean over the spread, times 1 - 3 / (4 df - 1).
    differences = np.array([0.01, 0.025, 0.005])
    assert made.effect == pytest.approx(differences.mean() / differences.std(ddof=1) * 4 / 7)
    assert compare("a", "b", {"a": {0: 0.9}, "b": {1: 0.9}}) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    corrected = holm([0.02, float("nan"), 0.01])
    assert corrected[0] == pytest.approx(0.02)
    assert isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.02)


def test_smallest_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    spread, seeds, comparisons = 0.01, 5, 3
    shift = smallest_detectable(spread, seeds, comparisons)
    samples = rng.normal(shift, spread, (20_000, seeds))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05 / comparisons
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_no_false_alarm_beyond_five_percent():
    """Equal mechanisms: the family makes a claim in at most 5 % of studies."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        draws = rng.normal(0.9, 0.01, (4, 3)) + rng.normal(0, 0.01, 3)
        scores = {name: by_seed(*row) for name, row in zip("abcd", draws, strict=True)}
        made = compare_all([("a", "d"), ("b", "d"), ("c", "d")], scores)
        alarms += any(comparison.shown for comparison in made)
    assert alarms / 400 <= 0.07


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
    assert "good is 4.0 points above depthwise" in text
    assert "poor is 5.0 points below depthwise" in text
    assert "equal: the difference to depthwise" in text
    assert "no proof of equality" in text
    assert "over 3 comparisons" in text
    assert {c.first for c in verdict.comparisons} == {"good", "equal", "poor"}
    assert verdict.detectable == pytest.approx(0.0, abs=0.02)


def test_verdict_without_controls_compares_all_pairs():
    verdict = judge({name: CLEAR[name] for name in ("good", "equal", "poor")})
    assert len(verdict.comparisons) == 3
    assert verdict.headline.startswith("good has the highest mean accuracy, 99.0 %; 3 of 3")


def test_verdict_that_nothing_is_shown_says_what_would_have_been():
    verdict = judge({"a": by_seed(0.95, 0.96, 0.94), "none": by_seed(0.955, 0.94, 0.951)}, ["none"])
    assert verdict.headline.startswith("No mechanism is better than the best control, none")
    assert "would be found in four of five" in verdict.sentences[-1]
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
    assert verdict.headline.startswith("a has the highest mean accuracy")
    assert message in " ".join(verdict.sentences)
    assert verdict.detectable is None


def test_verdict_of_nothing():
    assert judge({}).headline == "No run has finished."
