"""Pyramid pooling: a batch of one learns, and large maps are averaged over parts."""

from __future__ import annotations

import pytest
import torch

from foveate.heads import PSPHead
from foveate.heads.psp import PyramidPooling


def test_the_first_average_is_that_of_the_whole_map():
    torch.manual_seed(0)
    pools = PyramidPooling(5, 3, (1, 2)).eval()
    x = torch.randn(2, 5, 7, 4)
    whole, _ = pools(x)
    alone = pools[0][1](x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(whole, alone.expand(2, 3, 7, 4))


def test_a_batch_of_one_trains_and_moves_no_statistics_of_its_lone_value():
    torch.manual_seed(0)
    head = PSPHead(6, 4, dim=5)
    with pytest.warns(UserWarning, match="no statistics of its own"):
        head(torch.randn(1, 6, 5, 7)).sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert torch.equal(head.psp_modules[0][1].bn.running_mean, torch.zeros(5))
    assert not torch.equal(head.psp_modules[1][1].bn.running_mean, torch.zeros(5))


def test_scales_that_are_none_are_refused():
    with pytest.raises(ValueError, match="pool_scales must be an integer of at least 1, got 0"):
        PSPHead(6, 4, pool_scales=(0, 1))
