"""A class token beside the map: what is classified, and what is left out together."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from foveate.models._layers import drop_together
from tests.models.small import SMALL


@pytest.fixture
def x():
    return torch.randn(2, 3, 70, 94, generator=torch.Generator().manual_seed(1))


def cvt(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("cvt_13", num_classes=7, **SMALL["cvt_13"], **kwargs).eval()


@torch.no_grad()
def test_pooling_says_whether_token_or_map_is_classified(x):
    model = cvt()
    tokens = model.forward_features(x)
    token, features = tokens[:, 0], tokens[:, 1:]
    classifier = model.get_classifier()
    torch.testing.assert_close(model(x), classifier(token))
    averaged = cvt(global_pool="avg")
    torch.testing.assert_close(averaged(x), averaged.get_classifier()(features.mean(1)))


@torch.no_grad()
def test_pooling_can_be_reset(x):
    model = cvt()
    tokens = model.forward_features(x)
    assert model.num_prefix_tokens == 1
    pooled = {"": tokens, "avg": tokens[:, 1:].mean(1), "max": tokens[:, 1:].amax(1)}
    for pool, expected in {**pooled, "token": tokens[:, 0]}.items():
        model.reset_classifier(0, pool)
        torch.testing.assert_close(model(x), expected)


@torch.no_grad()
def test_without_the_last_stage_there_is_a_map_alone(x):
    model = cvt()
    expected = model.forward_intermediates(x, [1], intermediates_only=True)[0]
    model.prune_intermediate_layers([1])
    torch.testing.assert_close(model(x), expected)


def test_the_same_samples_are_left_out_of_both():
    torch.manual_seed(0)
    features, token = torch.ones(64, 2, 3, 4), torch.ones(64, 2, 1, 1)
    y, told = drop_together(DropPath(0.5), features, token)
    assert torch.equal(y[:, :, :1, :1], told)
    assert set(told.unique().tolist()) == {0.0, 2.0}
    for still in (nn.Identity(), DropPath(0.5).eval()):
        assert drop_together(still, features, token)[0] is features
