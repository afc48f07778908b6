"""Equal cost: every row's host gets the MLP ratio with which its model costs the same.

A mechanism that takes more than another may be better only because it takes more. With ``match``
the costliest row keeps the host as the plan has it, and every other row's MLPs are widened until
its model costs as much, within 2 %. Nothing is made smaller, and the controls get the capacity that
an attention would have taken.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import isclose
from statistics import median
from typing import Any, Literal, get_args

import timm
import torch

from foveate._random import seed_all
from foveate.analysis.profile import interleaved
from foveate.study.entry import Entry
from foveate.study.plan import Plan
from foveate.study.records import MatchedHost
from foveate.study.trial import build, costs, set_up
from foveate.surgery.fuse import fuse

Match = Literal["multiply_adds", "parameters", "latency"]
OPTION = "mlp_ratio"
TOLERANCE = 0.02
_MOST_WIDENING = 32.0
_ROUNDS, _SECONDS, _BATCH = 5, 0.5, 16

Cost = Callable[[float], float]
"""What a row's model costs with an MLP ratio; never less with a larger one."""


def plan_of(plan: Plan, matched: Mapping[str, MatchedHost], entry: Entry) -> Plan:
    """The plan that the models of an entry are built by."""
    host = matched.get(entry.key)
    if host is None:
        return plan
    return replace(plan, host_kwargs={**plan.host_kwargs, host.option: host.value})


def match_hosts(
    plan: Plan, classes: int, channels: int, tell: Callable[[Any], None]
) -> dict[str, MatchedHost]:
    """The host option of each row; ``tell`` gets the label of the one at hand.

    Raises:
        ValueError: if the host has no MLP ratio, or a row cannot be made to cost as much.
    """
    set_up(plan)
    seed_all(0)
    start = _ratio_of_host(plan)
    cost_of = partial(_cost, plan, classes, channels)
    rows = {entry: cost_of(entry, start) for entry in plan.entries}
    costliest = max(rows, key=lambda entry: rows[entry])
    target = rows[costliest]
    found = {}
    for entry in plan.entries:
        tell(entry.label)
        if entry == costliest:
            value, reached = start, target
        elif plan.match == "latency":
            beside = partial(_latency_beside, plan, classes, channels, entry, costliest, start)
            value, share = fit(beside, 1.0, start, entry.label)
            reached = share * target
        else:
            value, reached = fit(partial(cost_of, entry), target, start, entry.label)
        found[entry.key] = MatchedHost(
            entry.key, plan.match or "", OPTION, round(value, 4), reached, target
        )
    return found


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


def _near(cost: float, target: float, tolerance: float = TOLERANCE) -> bool:
    return isclose(cost, target, rel_tol=0.0, abs_tol=tolerance * target)


def _ratio_of_host(plan: Plan) -> float:
    """The MLP ratio that the plan's host has as it is."""
    if OPTION in plan.host_kwargs:
        return float(plan.host_kwargs[OPTION])
    with torch.device("meta"):
        host = timm.create_model(plan.host, attention="none", attention_kwargs={}, num_classes=2)
    known = inspect.signature(type(host).__init__).parameters.get(OPTION)
    if known is None or not isinstance(known.default, (int, float)):
        raise ValueError(f"match widens MLPs, and host {plan.host} has no option {OPTION}")
    return float(known.default)


def _cost(plan: Plan, classes: int, channels: int, entry: Entry, ratio: float) -> float:
    model = _model(plan, classes, channels, entry, ratio)
    if plan.match == "latency":
        x = torch.zeros(_BATCH, channels, *(plan.image_size or ()), device=plan.device)
        return _times({"it": (model, x)}, plan.device)["it"]
    known = costs(model, (channels, *(plan.image_size or ())))
    return float(known.parameters if plan.match == "parameters" else known.multiply_adds)


def _latency_beside(
    plan: Plan,
    classes: int,
    channels: int,
    entry: Entry,
    other: Entry,
    start: float,
    ratio: float,
) -> float:
    """The row's latency over that of the costliest row, in turns."""
    x = torch.zeros(_BATCH, channels, *(plan.image_size or ()), device=plan.device)
    both = {
        "row": (_model(plan, classes, channels, entry, ratio), x),
        "costliest": (_model(plan, classes, channels, other, start), x),
    }
    times = _times(both, plan.device)
    return times["row"] / times["costliest"]


def _times(models: Mapping[str, tuple[Any, torch.Tensor]], device: str) -> dict[str, float]:
    calls = {}
    for name, (model, x) in models.items():
        calls[name] = partial(fuse(copy.deepcopy(model).eval().to(device)), x)
    with torch.inference_mode():
        found = interleaved(calls, _SECONDS, device, least=_ROUNDS)
    return {name: median(passes.ms) for name, passes in found.items()}


def _model(plan: Plan, classes: int, channels: int, entry: Entry, ratio: float) -> Any:
    wider = replace(plan, host_kwargs={**plan.host_kwargs, OPTION: ratio})
    return build(wider, entry, classes, channels)


KINDS: tuple[str, ...] = get_args(Match)
"""What rows can be matched by."""
