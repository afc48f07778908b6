"""Costs beside the published ones, of DeiT at 224 pixels."""

from __future__ import annotations

import pytest
import timm
import torch

import foveate
from foveate.reduction import multiply_adds

PUBLISHED = [
    # DynamicViT: its code counted by fvcore, which counts norms as well.
    ("dynamicvit", {"keep": 0.7}, {"embed_dim": 256, "num_heads": 4}, 1.379),
    ("dynamicvit", {"keep": 0.7}, {}, 2.988),
    ("dynamicvit", {"keep": 0.7}, {"embed_dim": 768, "num_heads": 12}, 11.489),
    # Evo-ViT: likewise, without the head for training.
    ("evovit", {}, {"embed_dim": 192, "num_heads": 3, "global_pool": "avg"}, 0.821),
    ("evovit", {}, {"global_pool": "avg"}, 3.039),
    ("evovit", {}, {"embed_dim": 768, "num_heads": 12, "global_pool": "avg"}, 11.670),
    ("evovit", {"layerwise": True}, {"global_pool": "avg"}, 3.039),
    # ToMe: printed, in the paper's table of DeiT.
    ("tome", {"r": 13}, {}, 2.7),
]


@pytest.mark.parametrize(("reducer", "options", "width", "published"), PUBLISHED)
def test_the_cost_is_the_published_one(reducer, options, width, published):
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224", **width)
    cost = multiply_adds(foveate.reduce(model, reducer, **options), 224) / 1e9
    assert cost == pytest.approx(published, rel=0.02)
