"""The one sentence that answers the question of a study, with its uncertainty.

Terminal and report show the same sentence.
"""

from __future__ import annotations

from math import isnan

from foveate.metrics import Metric
from foveate.study.numbers import show_distance, show_range
from foveate.study.results import Results
from foveate.study.statistics import Comparison, Verdict


def answer(results: Results, verdict: Verdict) -> str:
    """Whether a mechanism is better than the controls, by how much, and how sure that is.

    Args:
        results: what the study has found.
        verdict: what that allows one to say.
    """
    tested = [made for made in verdict.comparisons if not isnan(made.p)]
    metric, controls = results.metric, results.controls
    if not tested:
        return verdict.headline
    if tested[0].second not in controls or tested[0].first in controls:
        return _which_is_best(verdict, metric)
    sign = 1 if metric.higher_is_better else -1
    best = max(tested, key=lambda made: sign * made.difference)
    better = [made for made in tested if made.shown and sign * made.difference > 0]
    if better:
        return f"Yes: {_lead(max(better, key=lambda made: sign * made.difference), metric)}."
    if all(made.shown for made in tested):
        return f"No: every mechanism is worse than the controls; {_lead(best, metric)}."
    return f"Not shown: {_lead(best, metric)}, which chance explains.{_what_it_takes(best, metric)}"


def _which_is_best(verdict: Verdict, metric: Metric) -> str:
    """Without a control the pairs are compared, that of the two best first."""
    best = verdict.comparisons[0].first
    beside = [made for made in verdict.comparisons if made.first == best]
    open_ = [made for made in beside if not made.shown]
    if open_ and isnan(open_[0].p):
        return verdict.headline
    if open_:
        return (
            f"Which is best is not shown: {_lead(open_[0], metric)}, which chance explains."
            f"{_what_it_takes(open_[0], metric)}"
        )
    return f"{best} is best: {_lead(beside[0], metric)}."


def failures(results: Results) -> str | None:
    """What failed, for the verdict; None where nothing did."""
    failed = [trial for trial in results.trials() if trial.error is not None]
    if not failed:
        return None
    count = len(list(results.trials()))
    names = ", ".join(f"{trial.subject.label} (seed {trial.seed})" for trial in failed[:6])
    more = f" and {len(failed) - 6} more" if len(failed) > 6 else ""
    rest = "the others are what is compared" if len(failed) < count else "nothing can be compared"
    return f"{len(failed)} of {count} trials failed: {names}{more}; {rest}."


def _lead(made: Comparison, metric: Metric) -> str:
    way = "above" if made.difference > 0 else "below"
    apart = show_distance(abs(made.difference), metric)
    images = "" if made.images == 1 else f" and {made.images:,} images"
    level = apart == show_distance(0.0, metric)
    said = (
        f"{made.first} and {made.second} have the same"
        if level
        else f"{made.first} is {apart} {way} {made.second} in"
    )
    return (
        f"{said} held-out {metric.words} (95 % interval "
        f"{'of the difference ' if level else ''}{show_range(made.low, made.high, metric)}; "
        f"{made.seeds} seeds{images})"
    )


def _what_it_takes(made: Comparison, metric: Metric) -> str:
    if made.seeds_needed is not None:
        return f" {made.seeds_needed} seeds would show a difference as large as this."
    if isnan(made.detectable):
        return ""
    takes = show_distance(made.detectable, metric)
    if made.detectable > made.room:
        return (
            f" This study can show no mechanism to be better than {made.second}: none can be more "
            f"than {show_distance(made.room, metric)} better."
        )
    return f" This study would show {takes} or more."
