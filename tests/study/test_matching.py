"""Hosts at equal cost."""

from __future__ import annotations

import pytest

from foveate.study.costing import match_hosts
from foveate.study.entry import Entry
from foveate.study.matching import TOLERANCE, fit, matched_lines, matched_plan
from foveate.study.plan import Plan, PlanError, read_plan
from foveate.study.records import MatchedHost, Records
from foveate.study.trial import build, costs

ROWS = (Entry("multi_head"), Entry("cbam"))
CONTROLS = (Entry("none", control=True),)


@pytest.mark.parametrize("target", [100.0, 101.0, 137.0, 900.0])
@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_a_fit_is_within_two_percent(target, grain):
    def cost(ratio: float) -> float:
        return 40 + 20 * (ratio if not grain else int(ratio * 32) / 32)

    ratio, reached = fit(cost, target, 3.0, "row")
    assert abs(reached - target) <= TOLERANCE * target
    assert cost(ratio) == reached
    assert ratio >= 3.0


def test_what_cannot_be_matched_is_said():
    with pytest.raises(ValueError, match=r"row cannot be made to cost as much as the costliest"):
        fit(lambda ratio: 50.0, 100.0, 3.0, "row")


@pytest.mark.parametrize("by", ["multiply_adds", "parameters"])
def test_all_rows_of_a_study_cost_the_same(by, tmp_path):
    plan = Plan(attention=ROWS, controls=CONTROLS, image_size=(16, 16), match=by, device="cpu")
    found = match_hosts(plan, 10, 1, lambda label: None)
    matched = matched_plan(plan, found)
    reached = []
    for entry in matched.entries:
        known = costs(matched, build(matched, entry, 10, 1), 1)
        cost = known.multiply_adds if by == "multiply_adds" else known.parameters
        assert found[entry.key].cost == pytest.approx(cost, rel=1e-3)
        reached.append(cost)
    assert max(reached) <= (1 + TOLERANCE) * min(reached)
    plain = [costs(plan, build(plan, entry, 10, 1), 1) for entry in plan.entries]
    before = [c.multiply_adds if by == "multiply_adds" else c.parameters for c in plain]
    assert max(before) > 1.1 * min(before)
    assert max(reached) == pytest.approx(max(before), rel=TOLERANCE)
    records = Records(tmp_path)
    records.write_matched(found)
    assert records.matched() == found
    assert matched.to_dict() == plan.to_dict()  # the plan that is written names no row's host


def test_a_host_without_an_mlp_ratio_is_refused(monkeypatch):
    class Bare:
        def __init__(self, depth: int = 2) -> None: ...

    monkeypatch.setattr("timm.create_model", lambda *_, **__: Bare())
    with pytest.raises(ValueError, match="host pyramid_pico has no option mlp_ratio"):
        match_hosts(Plan(match="parameters", image_size=(16, 16)), 10, 1, lambda label: None)


def test_what_was_changed_is_said():
    host = MatchedHost("none", "multiply_adds", "mlp_ratio", 4.5, 14_050_000.0, 14_100_000.0)
    assert matched_lines([host]) == [
        "none: mlp_ratio 4.5 makes it 14.05 million multiply-adds, 99.6% of the costliest row's"
    ]


def test_another_word_is_refused():
    with pytest.raises(PlanError, match="match must be one of multiply_adds, parameters, latency"):
        read_plan({"match": "flops"})
