"""What is Mobile-Former's own: its sizes, its tokens, and a head that reads both branches."""

from __future__ import annotations

import pytest
import timm
import torch

from foveate.models.mobile_former import PUBLISHED, DynamicReLU, mobile_former_26m
from tests.models.small import SMALL
from tests.models.test_contract import agrees


def small(**kwargs):
    torch.manual_seed(0)
    return mobile_former_26m(**{**SMALL["mobile_former_26m"], "num_classes": 5, **kwargs}).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_papers(name):
    model = timm.create_model(name, device="meta")
    assert agrees(sum(p.numel() for p in model.parameters()), PUBLISHED[name].params)


def test_dynamic_relu_takes_the_larger_of_two_slopes():
    act = DynamicReLU(3, 8)
    token = torch.randn(2, 8)
    slopes = torch.nn.functional.hardsigmoid(act.fc2(act.fc1(token).relu()))
    first, second = 2 * slopes[:, :3], 2 * slopes[:, 3:] - 1
    x = torch.randn(2, 3, 4, 5)
    for b in range(2):
        for c in range(3):
            expected = torch.maximum(first[b, c] * x[b, c], second[b, c] * x[b, c])
            torch.testing.assert_close(act(x, token)[b, c], expected)


def test_the_tokens_reach_the_map():
    model, x = small(), torch.randn(1, 3, 64, 64)
    before = model.forward_intermediates(x, intermediates_only=True)
    with torch.no_grad():
        model.stem.tokens.add_(1)
    after = model.forward_intermediates(x, intermediates_only=True)
    assert all((one - other).abs().max() > 0 for one, other in zip(before, after, strict=True))


def test_a_pruned_network_takes_a_new_classifier():
    model = small()
    model.prune_intermediate_layers([0, 1])
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 16, 8, 12)
    model.reset_classifier(4, "avg")
    assert model.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 4)
