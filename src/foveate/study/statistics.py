"""What the numbers of a comparison allow one to say.

The unit is the training run: a seed decides initialisation and the order of the images, the split
is the same for all. The interval of a mechanism's score is Student's t over its seeds. Two
mechanisms are compared with the paired t-test over the seeds they share (a seed means the same
batches for both), two-sided; Holm's correction goes over all comparisons that a verdict makes.
With controls in the study these are every mechanism against the best control (which is the
stricter choice, since the best of several is picked), without them every pair.

What is not covered: other data, another split, another recipe. Few seeds see only large
differences, so the smallest difference that the study would have found is stated with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isnan, nan, sqrt

import numpy as np
from scipy import optimize, stats

from foveate.metrics import ACCURACY, Metric
from foveate.study.numbers import show_distance, show_signed, show_value, unit_of_differences

CONFIDENCE = 0.95
POWER = 0.8

Scores = Mapping[int, float]  # of one mechanism: seed -> score


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; the interval is None with a single seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` over the seeds that both finished.

    Attributes:
        first: the one compared.
        second: what it is compared with.
        difference: of mean scores.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        spread: standard deviation of the differences over seeds.
        effect: the difference in units of that spread, corrected for few seeds (Hedges).
        p: of the paired t-test.
        corrected_p: after Holm's correction over the comparisons made together.
        seeds: how many pairs.

    All but the difference are NaN where no test can be made: with one seed, or no spread.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    spread: float
    effect: float
    p: float
    corrected_p: float
    seeds: int

    @property
    def shown(self) -> bool:
        """Whether the difference is larger than the seeds explain."""
        return self.corrected_p < 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """What a study allows one to say.

    Attributes:
        headline: the one sentence.
        sentences: the rest.
        comparisons: what they rest on.
        detectable: the smallest difference it would have found in four of five repetitions; None
            without a test.
    """

    headline: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    detectable: float | None


def estimate(scores: Scores, metric: Metric = ACCURACY) -> Estimate:
    """Mean and t interval of one mechanism's scores, kept within the metric's bounds.

    Raises:
        ValueError: if there are none.
    """
    numbers = np.asarray(list(scores.values()), dtype=float)
    if not numbers.size:
        raise ValueError(f"no {metric.name} to average")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Estimate(mean, None, None, 1)
    half = _t_quantile(numbers.size) * float(numbers.std(ddof=1)) / sqrt(numbers.size)
    least, greatest = metric.bounds
    return Estimate(mean, max(mean - half, least), min(mean + half, greatest), numbers.size)


def compare(first: str, second: str, scores: Mapping[str, Scores]) -> Comparison | None:
    """The paired comparison of two mechanisms, uncorrected; None if they share no seed."""
    seeds = sorted(set(scores[first]) & set(scores[second]))
    if not seeds:
        return None
    differences = np.array([scores[first][seed] - scores[second][seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    # Where every seed gives the same difference there is no spread to test against.
    if spread < 1e-12:
        return Comparison(first, second, mean, nan, nan, nan, nan, nan, nan, count)
    error = spread / sqrt(count)
    half = _t_quantile(count) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    effect = (1 - 3 / (4 * (count - 1) - 1)) * mean / spread
    return Comparison(first, second, mean, mean - half, mean + half, spread, effect, p, p, count)


def compare_all(pairs: Sequence[tuple[str, str]], scores: Mapping[str, Scores]) -> list[Comparison]:
    """The paired comparisons of ``pairs``, with Holm's correction over them."""
    made = [made for pair in pairs if (made := compare(*pair, scores)) is not None]
    corrected = holm([comparison.p for comparison in made])
    return [replace(c, corrected_p=p) for c, p in zip(made, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; NaN stays NaN and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if not isnan(p)), key=lambda i: p_values[i])
    corrected = [nan] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def smallest_detectable(spread: float, seeds: int, comparisons: int) -> float:
    """The true difference that the test would find with a probability of 80 %.

    Args:
        spread: standard deviation of the paired differences.
        seeds: pairs.
        comparisons: how many the correction goes over; the strictest level counts.
    """
    level = (1 - CONFIDENCE) / comparisons
    critical = stats.t.ppf(1 - level / 2, seeds - 1)

    def miss(shift: float) -> float:
        return float(stats.nct.sf(critical, seeds - 1, shift)) - POWER

    shift = optimize.brentq(miss, 0.0, 20.0 * critical)
    return float(shift) * spread / sqrt(seeds)


def judge(
    scores: Mapping[str, Scores], controls: Collection[str] = (), metric: Metric = ACCURACY
) -> Verdict:
    """What the scores of a study show, in sentences.

    Args:
        scores: by label, scores by seed; only finished runs.
        controls: labels of those that are controls.
        metric: what the scores are.
    """
    sign = -1 if metric.higher_is_better else 1
    ranked = sorted(
        (name for name in scores if scores[name]), key=lambda n: sign * _mean(scores[n])
    )
    if not ranked:
        return Verdict("No run has finished.", (), (), None)
    most = "highest" if metric.higher_is_better else "lowest"
    best = show_value(_mean(scores[ranked[0]]), metric)
    leader = f"{ranked[0]} has the {most} mean {metric.name}, {best}"
    present = [name for name in ranked if name in controls]
    others = [name for name in ranked if name not in controls]
    against_control = bool(present and others)
    pairs = (
        [(name, present[0]) for name in others]
        if against_control
        else list(combinations(ranked, 2))
    )
    comparisons = compare_all(pairs, scores)
    tested = [comparison for comparison in comparisons if not isnan(comparison.p)]
    if not tested:
        return Verdict(f"{leader}; no test was possible.", (_no_test(comparisons),),
                       tuple(comparisons), None)  # fmt: skip
    seeds = max(comparison.seeds for comparison in tested)
    detectable = _detectable(tested, seeds)
    sentences = [
        *_shown(tested, metric),
        *_not_shown(tested, against_control, metric),
        *([_no_test(comparisons)] if len(tested) < len(comparisons) else []),
        _power(detectable, seeds, metric),
    ]
    return Verdict(
        _headline(tested, leader, against_control, metric),
        tuple(sentences),
        tuple(comparisons),
        detectable,
    )


def _headline(
    tested: Sequence[Comparison], leader: str, against_control: bool, metric: Metric
) -> str:
    shown = [comparison for comparison in tested if comparison.shown]
    beyond = "than the seeds explain."
    if against_control:
        sign = 1 if metric.higher_is_better else -1
        better = [comparison.first for comparison in shown if sign * comparison.difference > 0]
        names = f"{_join(better)} {_are(len(better))}" if better else "No mechanism is"
        return f"{names} better than the best control, {tested[0].second}, by more {beyond}"
    if not shown:
        return f"{leader}; no difference is larger {beyond}"
    count = f"{len(shown)} of {len(tested)}" if len(tested) > 1 else "the"
    return f"{leader}; {count} difference{_s(len(tested))} {_are(len(shown))} larger {beyond}"


def _shown(tested: Sequence[Comparison], metric: Metric) -> list[str]:
    return [
        f"{c.first} is {show_distance(abs(c.difference), metric)} "
        f"{'above' if c.difference > 0 else 'below'} {c.second} (95 % interval "
        f"{_range(c.low, c.high, metric)}; paired t-test over {c.seeds} seeds, "
        f"p {_p(c.corrected_p)} after Holm's correction over {len(tested)} "
        f"comparison{_s(len(tested))})."
        for c in sorted(tested, key=lambda c: -abs(c.difference))
        if c.shown
    ]


def _not_shown(tested: Sequence[Comparison], against_control: bool, metric: Metric) -> list[str]:
    rest = [comparison for comparison in tested if not comparison.shown]
    if not rest:
        return []
    lowest = min(comparison.corrected_p for comparison in rest)
    size = _range(min(c.difference for c in rest), max(c.difference for c in rest), metric)
    least = "p" if len(rest) == 1 else "smallest p"
    test = f"paired t-test with Holm's correction, {least} {_p(lowest)}"
    if against_control:
        names = _join([comparison.first for comparison in rest])
        return [f"{names}: the difference to {rest[0].second} ({size}) is within what the seeds "
                f"explain ({test}). That is no proof of equality."]  # fmt: skip
    if len(rest) == 1:
        return [f"The difference between {rest[0].first} and {rest[0].second} ({size}) is within "
                f"what the seeds explain ({test}). That is no proof of equality."]  # fmt: skip
    return [f"The other {len(rest)} differences between pairs ({size}) are within what the seeds "
            f"explain ({test}). That is no proof of equality."]  # fmt: skip


def _no_test(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "There is nothing to compare with."
    if all(comparison.seeds < 2 for comparison in comparisons):
        return "With one seed there is no spread to test a difference against; run more seeds."
    names = _join([f"{c.first} against {c.second}" for c in comparisons if isnan(c.p)])
    return f"{names}: not testable, for want of a second seed or of any spread between the seeds."


def _power(detectable: float, seeds: int, metric: Metric) -> str:
    return (
        f"With {seeds} seeds and the spread seen here, a true difference of "
        f"{show_distance(detectable, metric)} "
        "would be found in four of five such studies; smaller ones may be real and go unseen, and "
        "only more seeds would show them."
    )


def _detectable(tested: Sequence[Comparison], seeds: int) -> float:
    spread = sqrt(float(np.mean([comparison.spread**2 for comparison in tested])))
    return smallest_detectable(spread, seeds, len(tested))


def _t_quantile(count: int) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1))


def _mean(scores: Scores) -> float:
    return float(np.mean(list(scores.values())))


def _range(low: float, high: float, metric: Metric) -> str:
    low_text, high_text = show_signed(low, metric), show_signed(high, metric)
    both = low_text if low_text == high_text else f"{low_text} to {high_text}"
    return f"{both} {unit_of_differences(metric)}".rstrip()


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _join(names: Sequence[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
