"""What heads are built of."""

from __future__ import annotations

import pytest
import torch

from foveate.heads._layers import LoneValueBatchNorm, check_maps


def test_one_value_a_channel_passes_training_by_the_running_statistics():
    torch.manual_seed(0)
    norm = LoneValueBatchNorm(3)
    norm.running_mean.copy_(torch.randn(3))
    norm.running_var.copy_(torch.rand(3) + 0.5)
    before = norm.running_mean.clone()
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.warns(UserWarning, match="running ones"):
        y = norm(x)
    assert torch.equal(y, norm.eval()(x))
    assert torch.equal(norm.running_mean, before)
    y.sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 1, 2)])
def test_more_values_than_one_are_normalised_as_ever(shape):
    x = torch.randn(shape)
    ours, theirs = LoneValueBatchNorm(3), torch.nn.BatchNorm2d(3)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_other_maps_than_the_head_was_built_for_are_refused():
    maps = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4)]
    check_maps(maps, (4, 8))
    with pytest.raises(ValueError, match=r"expected 3 maps.*got 2"):
        check_maps(maps, (4, 8, 16))
    with pytest.raises(ValueError, match=r"\(4, 9\) channels, got \(4, 8\)"):
        check_maps(maps, (4, 9))
