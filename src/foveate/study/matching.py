"""Equal cost: every row's host gets the MLP ratio with which its model costs the same.

A mechanism that takes more than another may be better only because it takes more. With ``match``
the costliest row keeps the host as the plan has it, and every other row's MLPs are widened until
its model costs as much, within 2 %. Nothing is made smaller, and the controls get the capacity that
an attention would have taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isclose

from foveate.study.entry import Entry
from foveate.study.numbers import show_ms
from foveate.study.own_host import LABELS, RATIO
from foveate.study.plan import Plan
from foveate.study.records import MatchedHost

OPTION = "mlp_ratio"
TOLERANCE = 0.02
_MOST_WIDENING = 32.0

Cost = Callable[[float], float]
"""What a row's model costs with an MLP ratio; never less with a larger one."""


def matched_plan(plan: Plan, matched: Mapping[str, MatchedHost]) -> Plan:
    """The plan, each of whose entries has its own host."""

    def with_host(entry: Entry) -> Entry:
        host = matched.get(entry.key)
        return entry if host is None else replace(entry, host={host.option: host.value})

    return replace(
        plan,
        attention=tuple(map(with_host, plan.attention)),
        controls=tuple(map(with_host, plan.controls)),
    )


def fit(cost: Cost, target: float, start: float, label: str) -> tuple[float, float]:
    """The ratio from ``start`` on whose cost is nearest to ``target``, and that cost.

    A cost is nearly linear in the ratio, so a secant leads there in two or three steps; the
    bracket around the target makes sure that it does.

    Raises:
        ValueError: if no ratio is within 2 %.
    """
    low, at_low = start, cost(start)
    if _near(at_low, target):
        return low, at_low
    high = 2 * start
    at_high = cost(high)
    while at_high < target and high < _MOST_WIDENING * start:
        low, at_low, high = high, at_high, 2 * high
        at_high = cost(high)
    best = min(((low, at_low), (high, at_high)), key=lambda pair: abs(pair[1] - target))
    for step in range(16):
        if _near(best[1], target, TOLERANCE / 4) or at_high <= at_low:
            break
        share = (target - at_low) / (at_high - at_low) if step % 3 < 2 else 0.5
        middle = low + min(max(share, 0.02), 0.98) * (high - low)
        at_middle = cost(middle)
        best = min((best, (middle, at_middle)), key=lambda pair: abs(pair[1] - target))
        if at_middle < target:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    if not _near(best[1], target):
        raise ValueError(
            f"{label} cannot be made to cost as much as the costliest row: with {OPTION} "
            f"{best[0]:.3g} it comes to {best[1] / target:.0%} of it; leave out match, or the row"
        )
    return best


def matched_lines(hosts: Iterable[MatchedHost]) -> list[str]:
    """What was changed, a line each."""
    return [
        f"{_label(host)}: {host.option} {host.value:g} makes it {_show_cost(host)}"
        for host in hosts
    ]


def _label(host: MatchedHost) -> str:
    """What tables call it: the control of a host of the user's own has another name there."""
    return LABELS.get(host.attention, host.attention) if host.option == RATIO else host.attention


def _show_cost(host: MatchedHost) -> str:
    share = f"{host.cost / host.target:.1%} of the costliest row's"
    if host.by == "latency":
        return f"{show_ms(host.cost)} ms, {share}"
    number = f"{host.cost / 1e6:,.2f} million" if host.cost >= 1e6 else f"{host.cost:,.0f}"
    return f"{number} {host.by.replace('_', '-')}, {share}"


def _near(cost: float, target: float, tolerance: float = TOLERANCE) -> bool:
    return isclose(cost, target, rel_tol=0.0, abs_tol=tolerance * target)
