from __future__ import annotations

import pytest
import torch

from foveate.reduction import find_thresholds, solve_budget
from foveate.reduction.early_exit import NEVER, exits_taken, geometric, mean_cost


@pytest.fixture
def confidence():
    generator = torch.Generator().manual_seed(0)
    return 0.1 + 0.9 * torch.rand(3, 500, generator=generator)


def test_shares_of_images_leave(confidence):
    thresholds = find_thresholds(confidence, [0.5, 0.25, 0.25])
    left = torch.bincount(exits_taken(confidence, thresholds), minlength=3)
    assert left.tolist() == [250, 125, 125]


def test_none_leaves_where_none_is_to(confidence):
    thresholds = find_thresholds(confidence, [0.0, 1.0, 0.0])
    assert thresholds[0] == NEVER
    assert set(exits_taken(confidence, thresholds).tolist()) == {1}


def test_equally_confident_images_leave_together():
    confidence = torch.full((2, 10), 0.5)
    assert exits_taken(confidence, find_thresholds(confidence, [0.1, 0.9])).tolist() == [0] * 10


def test_more_than_are_inside_cannot_leave(confidence):
    thresholds = find_thresholds(confidence, [0.9, 0.9, 0.0])
    assert thresholds[1] == NEVER


@pytest.mark.parametrize("budget", [1.0, 1.3, 2.5, 4.0, 5.9, 6.0])
def test_budget_is_kept_and_nearly_used(confidence, budget):
    costs = [1.0, 2.5, 6.0]
    thresholds, cost = solve_budget(confidence, costs, budget)
    assert cost == mean_cost(confidence, thresholds, costs)
    assert budget - 0.05 < cost <= budget


def test_budget_out_of_range(confidence):
    for budget in (0.9, 6.1, float("nan")):
        with pytest.raises(ValueError, match=r"between the cost of the first exit, 1, .* last, 6"):
            solve_budget(confidence, [1.0, 2.5, 6.0], budget)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 1.5, 0.0], [-0.1, 0.5, 0.6]])
def test_wrong_shares(confidence, shares):
    with pytest.raises(ValueError, match="a share in"):
        find_thresholds(confidence, shares)


def test_shares_sum_to_one():
    assert sum(geometric(0.3, 3)) == pytest.approx(1)
    assert geometric(1.0, 4) == [0.25] * 4
