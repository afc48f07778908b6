"""What the numbers of a comparison allow one to say.

A trial is a training run scored on the held-out images. Seeds (initialisation, order of the images)
and images are both samples, so both count as crossed random effects (``study/crossed.py``): the
interval of a mechanism's score, and of the difference of two over the seeds that they share.

With controls in the study, a mechanism counts as *better* only if it is above **every** control,
and as *worse* only if it is below every control. The p of such a statement is the largest of its
one-sided p-values (an intersection-union test), so that picking the best of several controls after
the fact costs nothing; both directions are asked, hence twice that. Holm's correction goes over the
mechanisms. Without controls every pair is compared, two-sided, with Holm's correction.

What is not covered: other data, another split, another recipe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import isnan, nan

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from foveate.metrics import ACCURACY, Metric
from foveate.study.crossed import CrossedMean, crossed_mean
from foveate.study.numbers import show_distance, show_signed, show_value, unit_of_differences

CONFIDENCE = 0.95
EQUIVALENCE_CONFIDENCE = 0.90  # two one-sided tests at 5 %
POWER = 0.8
MOST_SEEDS = 100

Scores = Mapping[int, ArrayLike]
"""Of one mechanism, by seed: the score of each held-out image, in the order of the images, or a
single number where only that is known."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images with its 95 % interval; None with a single seed.

    Attributes:
        mean: of the scores.
        low: lower end, within the metric's bounds.
        high: upper end.
        seeds: how many.
        images: how many; 1 where scores of images are not known.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    images: int


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` over the seeds that both finished and the images that both saw.

    Attributes:
        first: the one compared.
        second: what it is compared with.
        difference: of mean scores.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        error: standard error of the difference.
        df: Satterthwaite's degrees of freedom of that error.
        seeds: how many are shared.
        images: how many; 1 where scores of images are not known.
        seed_share: the share of the error's square that more seeds would remove.
        p: two-sided; against controls, of the statement that ``first`` is above, or below, all.
        corrected_p: after Holm's correction over the comparisons made together.
        equivalent_within: the two are no further apart than this (90 %, two one-sided tests).
        detectable: the true difference that would have been found in four of five such studies; it
            may be larger than any that there can be (:attr:`widest`).
        room: by how much a mechanism can be better than ``second``, up to the metric's bound.
        widest: by how much it can differ from ``second``, either way.
        seeds_needed: seeds in all that would show a true difference as large as the one seen, in
            four of five studies; None where it is shown, or where no number up to 100 would.

    All that rests on a test is NaN, and the last is None, where none can be made: with one seed, or
    no spread.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    error: float
    df: float
    seeds: int
    images: int
    seed_share: float
    p: float
    corrected_p: float
    equivalent_within: float
    detectable: float
    room: float
    widest: float
    seeds_needed: int | None

    @property
    def shown(self) -> bool:
        """Whether the difference is larger than seeds and images explain."""
        return self.corrected_p < 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """What a study allows one to say.

    Attributes:
        headline: the one sentence.
        sentences: the rest.
        comparisons: what they rest on.
        detectable: the largest of the comparisons' detectable differences, which may be larger than
            any that there can be; None without a test.
    """

    headline: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    detectable: float | None


def estimate(scores: Scores, metric: Metric = ACCURACY) -> Estimate:
    """Mean and interval of one mechanism's scores, kept within the metric's bounds.

    Raises:
        ValueError: if there are none.
    """
    if not scores:
        raise ValueError(f"no {metric.name} to average")
    found = crossed_mean(_table(scores, sorted(scores)))
    if not found.testable:
        edge = None if found.seeds == 1 else found.mean
        return Estimate(found.mean, edge, edge, found.seeds, found.images)
    low, high = found.interval(CONFIDENCE)
    bottom, top = metric.bounds
    return Estimate(found.mean, max(low, bottom), min(high, top), found.seeds, found.images)


def compare(
    first: str, second: str, scores: Mapping[str, Scores], metric: Metric = ACCURACY
) -> Comparison | None:
    """The paired comparison of two mechanisms, uncorrected; None if they share no seed."""
    made = compare_all([(first, second)], scores, metric)
    return made[0] if made else None


def compare_all(
    pairs: Sequence[tuple[str, str]], scores: Mapping[str, Scores], metric: Metric = ACCURACY
) -> list[Comparison]:
    """The paired comparisons of ``pairs``, with Holm's correction over them."""
    sharing = {pair: found for pair in pairs if (found := _difference(*pair, scores)) is not None}
    p_values = [difference.p_two() for difference in sharing.values()]
    return _comparisons(sharing, p_values, scores, metric)


def compare_with_controls(
    names: Sequence[str],
    controls: Sequence[str],
    scores: Mapping[str, Scores],
    metric: Metric = ACCURACY,
) -> list[Comparison]:
    """Each of ``names`` beside the control with the best mean; p is over every control.

    The difference and its interval are those to the best control. ``p`` asks whether the mechanism
    is above every control or below every control.
    """
    best = sorted(controls, key=lambda name: _rank(scores[name], metric))[0]
    sharing = {
        (name, best): found
        for name in names
        if (found := _difference(name, best, scores)) is not None
    }
    p_values = [_beyond_all(name, controls, scores) for name, _ in sharing]
    return _comparisons(sharing, p_values, scores, metric)


def _beyond_all(name: str, controls: Sequence[str], scores: Mapping[str, Scores]) -> float:
    """Two-sided p of being above all of the controls, or below all of them."""
    differences = [_difference(name, control, scores) for control in controls]
    found = [difference for difference in differences if difference is not None]
    above = max(difference.p_above() for difference in found)
    below = max(difference.p_below() for difference in found)
    testable = all(difference.testable for difference in found)
    return min(1.0, 2 * min(above, below)) if testable else nan


def _difference(first: str, second: str, scores: Mapping[str, Scores]) -> CrossedMean | None:
    seeds = sorted(set(scores[first]) & set(scores[second]))
    if not seeds:
        return None
    ours, theirs = _table(scores[first], seeds), _table(scores[second], seeds)
    if ours.shape != theirs.shape:  # scores of images are known of one alone
        ours, theirs = (table.mean(axis=1, keepdims=True) for table in (ours, theirs))
    return crossed_mean(ours - theirs)


def _comparisons(
    found: Mapping[tuple[str, str], CrossedMean],
    p_values: Sequence[float],
    scores: Mapping[str, Scores],
    metric: Metric,
) -> list[Comparison]:
    """The comparisons of these pairs, corrected over all of them that can be tested."""
    count = sum(not isnan(p) for p in p_values)
    made = []
    for (pair, difference), p, corrected in zip(
        found.items(), p_values, holm(p_values), strict=True
    ):
        ends = [abs(bound - _mean(scores[pair[1]])) for bound in metric.bounds]
        testable = not isnan(p)
        low, high = difference.interval(CONFIDENCE)
        within = max(abs(end) for end in difference.interval(EQUIVALENCE_CONFIDENCE))
        shown = testable and corrected < 1 - CONFIDENCE
        made.append(
            Comparison(
                first=pair[0],
                second=pair[1],
                difference=difference.mean,
                low=low,
                high=high,
                error=difference.error if testable else nan,
                df=difference.df if testable else nan,
                seeds=difference.seeds,
                images=difference.images,
                seed_share=_seed_share(difference) if testable else nan,
                p=p,
                corrected_p=corrected,
                equivalent_within=within,
                detectable=detectable(difference, count) if testable else nan,
                room=ends[metric.higher_is_better],
                widest=max(ends),
                seeds_needed=seeds_needed(difference, count) if testable and not shown else None,
            )
        )
    return made


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; NaN stays NaN and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if not isnan(p)), key=lambda i: p_values[i])
    corrected = [nan] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def detectable(found: CrossedMean, comparisons: int) -> float:
    """The true difference that the test would find with a probability of 80 %.

    Args:
        found: the difference, with its error and degrees of freedom.
        comparisons: how many the correction goes over; the strictest level counts.
    """
    return _shift(round(found.df, 2), comparisons) * found.error


@cache
def _shift(df: float, comparisons: int) -> float:
    """The difference, in standard errors, that is found with a probability of 80 %."""
    critical = float(stats.t.ppf(1 - (1 - CONFIDENCE) / comparisons / 2, df))
    if df > 20:  # there the noncentral t is a shifted t, to within a percent
        return critical + float(stats.t.ppf(POWER, df))

    def miss(shift: float) -> float:
        return float(stats.nct.sf(critical, df, shift)) - POWER

    return float(optimize.brentq(miss, 0.0, 20.0 * critical))


def seeds_needed(found: CrossedMean, comparisons: int) -> int | None:
    """Seeds in all that would show a true difference of ``found.mean``, with a probability of 80 %.

    None if no number up to 100 would: then the images' share alone is too large.
    """

    def enough(seeds: int) -> bool:
        return detectable(found.with_seeds(seeds), comparisons) <= abs(found.mean)

    counts = range(found.seeds + 1, MOST_SEEDS + 1)
    first = bisect_left(counts, True, key=enough)
    return counts[first] if first < len(counts) else None


def judge(
    scores: Mapping[str, Scores],
    controls: Collection[str] = (),
    metric: Metric = ACCURACY,
    unhealthy: Mapping[str, str] | None = None,
) -> Verdict:
    """What the scores of a study show, in sentences.

    Args:
        scores: by label, scores of images by seed; only finished runs.
        controls: labels of those that are controls.
        metric: what the scores mean: its name, unit and bounds.
        unhealthy: by label, what is wrong with trials that finished ("3 of 3 trials at chance").
            Such a mechanism is named and not compared: it did not learn, which is not the same as
            being worse.
    """
    unhealthy = {name: why for name, why in (unhealthy or {}).items() if name in scores}
    words = _Words(metric)
    sick = [words.not_learned(name, why) for name, why in unhealthy.items()]
    ranked = sorted(
        (name for name in scores if scores[name] and name not in unhealthy),
        key=lambda name: _rank(scores[name], metric),
    )
    if not ranked:
        nothing = "Nothing can be compared: every row has trials at chance or diverged."
        return Verdict(nothing if sick else "No trial has finished.", tuple(sick), (), None)
    leader = words.leader({name: _mean(scores[name]) for name in ranked})
    present = [name for name in ranked if name in controls]
    others = [name for name in ranked if name not in controls]
    against_control = bool(present and others)
    comparisons = (
        compare_with_controls(others, present, scores, metric)
        if against_control
        else compare_all(list(combinations(ranked, 2)), scores, metric)
    )
    tested = [comparison for comparison in comparisons if not isnan(comparison.p)]
    if not tested:
        untested = f"No difference could be tested; {leader}."
        return Verdict(untested, (_no_test(comparisons), *sick), tuple(comparisons), None)
    sentences = [
        *words.shown(tested, present if against_control else ()),
        *words.not_shown(tested, against_control),
        *([_no_test(comparisons)] if len(tested) < len(comparisons) else []),
        *words.power(tested, against_control),
        *sick,
    ]
    return Verdict(
        words.headline(tested, leader, present if against_control else ()),
        tuple(sentences),
        tuple(comparisons),
        max(comparison.detectable for comparison in tested),
    )


@dataclass(frozen=True)
class _Words:
    """The sentences of a verdict, in the units of its metric."""

    metric: Metric

    @property
    def best(self) -> str:
        return "highest" if self.metric.higher_is_better else "lowest"

    def leader(self, means: Mapping[str, float]) -> str:
        """Who is first of ``means``, which are in order; on a tie, all that are."""
        best = self.value(next(iter(means.values())))
        first = [name for name, mean in means.items() if self.value(mean) == best]
        have = "has" if len(first) == 1 else "have"
        return f"{_join(first)} {have} the {self.best} mean {self.metric.words}, {best}"

    def headline(self, tested: Sequence[Comparison], leader: str, controls: Sequence[str]) -> str:
        shown = [comparison for comparison in tested if comparison.shown]
        beyond = f"than {_chance(tested)} explain."
        if controls:
            sign = 1 if self.metric.higher_is_better else -1
            better = [c.first for c in shown if sign * c.difference > 0]
            best = f"the best control, {controls[0]}" if len(controls) > 1 else controls[0]
            if not better:
                return f"No mechanism is shown to be better than {best}, by more {beyond}"
            return f"{_join(better)} {_are(len(better))} better than {best}, by more {beyond}"
        if not shown:
            return f"No difference is larger than {_chance(tested)} explain; {leader}."
        count = f"{len(shown)} of {len(tested)}" if len(tested) > 1 else "The"
        return (
            f"{count} difference{_s(len(tested))} {_are(len(shown))} larger than {_chance(tested)} "
            f"explain; {leader}."
        )

    def shown(self, tested: Sequence[Comparison], controls: Sequence[str]) -> list[str]:
        also = " and the other controls" if len(controls) > 1 else ""
        return [
            f"{c.first} is {self.points(abs(c.difference))} "
            f"{'above' if c.difference > 0 else 'below'} {c.second}{also} (95 % interval of the "
            f"difference {self.range(c.low, c.high)}, over {_sample(c)}; p {_p(c.corrected_p)} "
            f"after Holm's correction over {len(tested)} comparison{_s(len(tested))})."
            for c in sorted(tested, key=lambda c: -abs(c.difference))
            if c.shown
        ]

    def not_shown(self, tested: Sequence[Comparison], against_control: bool) -> list[str]:
        rest = [comparison for comparison in tested if not comparison.shown]
        if not rest:
            return []
        size = self.range(min(c.difference for c in rest), max(c.difference for c in rest))
        least = "p" if len(rest) == 1 else "smallest p"
        lowest = min(comparison.corrected_p for comparison in rest)
        apart = self.points(max(comparison.equivalent_within for comparison in rest))
        explained = (
            f"is within what {_chance(rest)} explain ({least} {_p(lowest)} after Holm's "
            f"correction). What can be said: no more than {apart} apart (90 %)."
        )
        if against_control:
            names = _join([comparison.first for comparison in rest])
            return [f"{names}: the difference to {rest[0].second} ({size}) {explained}"]
        if len(rest) == 1:
            return [
                f"The difference between {rest[0].first} and {rest[0].second} ({size}) {explained}"
            ]
        return [f"The other {len(rest)} differences between pairs ({size}): each {explained}"]

    def power(self, tested: Sequence[Comparison], against_control: bool) -> list[str]:
        """What would have been found, and what it would take to settle what was not."""
        said = self.would_be_found(tested)
        room, low = tested[0].room, min(made.detectable for made in tested)
        if against_control and room < low <= tested[0].widest:
            said.append(
                f"No mechanism can be that much better: {tested[0].second} is "
                f"{self.points(room)} from the {self.best} {self.metric.words} there is."
            )
        open_ = [c for c in tested if not c.shown]
        needed = [c for c in open_ if c.seeds_needed is not None]
        if needed:
            each = _join([f"{c.first} {c.seeds_needed}" for c in needed])
            said.append(
                f"Seeds in all that would show a difference as large as the one seen: {each}."
            )
        if open_ and len(needed) < len(open_):
            names = _join([c.first for c in open_ if c.seeds_needed is None])
            said.append(
                f"{names}: no number of seeds up to {MOST_SEEDS} would show a difference as small "
                "as the one seen."
            )
        return said

    def would_be_found(self, tested: Sequence[Comparison]) -> list[str]:
        """Differences that four of five such studies find, of those that there can be."""
        found = sorted(made.detectable for made in tested if made.detectable <= made.widest)
        blind = [made for made in tested if made.detectable > made.widest]
        said = []
        if found:
            ends = dict.fromkeys(self.points(end) for end in (found[0], found[-1]))
            between = " to ".join(ends)
            said.append(
                f"A true difference of {between} would be found in four of five such studies."
            )
        if blind:
            each = _join([f"{made.first} against {made.second}" for made in blind])
            most = self.points(max(made.widest for made in blind))
            said.append(
                f"{each}: with this spread not even the largest difference that there can be, "
                f"{most}, would be found; run more seeds."
            )
        return said

    def not_learned(self, name: str, why: str) -> str:
        return (
            f"{name} did not learn ({why}); that is not the same as worse, and it is not compared."
        )

    def value(self, value: float) -> str:
        return show_value(value, self.metric)

    def points(self, distance: float) -> str:
        return show_distance(distance, self.metric)

    def range(self, low: float, high: float) -> str:
        ends = dict.fromkeys(show_signed(end, self.metric) for end in (low, high))
        return f"{' to '.join(ends)} {unit_of_differences(self.metric)}".rstrip()


def _no_test(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "There is nothing to compare with."
    if all(comparison.seeds < 2 for comparison in comparisons):
        return "With one seed there is no spread to test a difference against; run more seeds."
    names = _join([f"{c.first} against {c.second}" for c in comparisons if isnan(c.p)])
    return f"{names}: not testable, since a second seed or any spread is missing."


def _seed_share(found: CrossedMean) -> float:
    of_seeds = (found.v_seed + found.v_rest / found.images) / found.seeds
    of_images = found.v_image / found.images
    return of_seeds / (of_seeds + of_images) if of_seeds + of_images else nan


def _table(scores: Scores, seeds: Sequence[int]) -> np.ndarray:
    """Scores ``(seeds, images)``; one column where a seed has a single number."""
    rows = [np.atleast_1d(np.asarray(scores[seed], dtype=float)) for seed in seeds]
    if len({row.shape for row in rows}) > 1:
        rows = [row.mean(keepdims=True) for row in rows]
    return np.stack(rows)


def _mean(scores: Scores) -> float:
    return float(np.mean([np.mean(np.asarray(values, dtype=float)) for values in scores.values()]))


def _rank(scores: Scores, metric: Metric) -> float:
    """A sort key: the best mean first."""
    return -_mean(scores) if metric.higher_is_better else _mean(scores)


def _chance(tested: Sequence[Comparison]) -> str:
    return "the seeds" if all(c.images == 1 for c in tested) else "seeds and held-out images"


def _sample(comparison: Comparison) -> str:
    seeds = f"{comparison.seeds} seeds"
    return seeds if comparison.images == 1 else f"{seeds} and {comparison.images:,} images"


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
