"""What reducers compute where numbers are extreme, and with what was hung on the layers inside."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import find_thresholds, sources, watching

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def small(**options):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=64, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5, **options
    ).eval()


@pytest.mark.parametrize(
    ("reducer", "options"),
    [
        ("tome", {"r": 100}),
        ("token_pooling", {"keep": 0.01, "stages": [1], "clustering": "means"}),
        ("token_pooling", {"keep": 0.01, "stages": [1]}),
        ("evovit", {"keep": 0.1, "stages": [1], "representative": True}),
        ("dynamicvit", {"keep": 0.1, "stages": [1]}),
    ],
)
def test_a_channel_of_large_values_does_not_overflow_in_half_precision(reducer, options):
    model = small(global_pool="avg")
    with torch.no_grad():
        model.pos_embed[..., 5] += 1500  # as some channels of large models are
        model = foveate.reduce(model, reducer, **options).eval()
        expected = model(IMAGES)
        found = copy.deepcopy(model).half()(IMAGES.half()).float()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_a_representative_of_patches_that_nothing_looks_at_is_their_mean():
    model = small()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight *= 3000  # attention to one patch alone, zero to others
    foveate.reduce(model, "evovit", stages=[1], representative=True)
    logits = model(IMAGES)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_hooks_on_values_of_blocks_that_share_are_run():
    model = foveate.reduce(small(), "psvit", pool=[], share=[1])
    seen = []
    model.blocks[1].attn.qkv.register_forward_hook(lambda *_: seen.append(1))
    model(IMAGES)
    assert seen == [1]


def test_a_merging_model_of_fewer_blocks_has_its_cost():
    model = foveate.reduce(small(), "tome", r=8)
    model.prune_intermediate_layers([1])
    counted = foveate.count_flops(model, IMAGES[:1])
    assert foveate.reduction.multiply_adds(model, 64) == counted // 2


def test_a_block_at_several_places_is_refused():
    model = small()
    model.blocks[1] = model.blocks[0]
    with pytest.raises(ValueError, match="at several places"):
        foveate.reduce(model, "tome", r=0)


def test_a_range_of_stages_is_a_list_in_the_recipe():
    model = foveate.reduce(small(), "dynamicvit", stages=range(1, 3))
    assert foveate.changes(model).recipe["reduction"]["options"] == {"stages": [1, 2]}


def test_watching_within_watching_goes_on():
    model = foveate.reduce(small(), "tome", r=8)
    with watching(model) as watch:
        inner = sources(model, IMAGES)
        model(IMAGES)
    assert watch.layers.keys() == inner.keys()


def test_thresholds_stay_what_they_are_in_half_precision():
    cascade = foveate.reduce(small(), "dvt")
    cascade.set_thresholds([0.9991] * len(cascade.thresholds))
    expected = cascade.thresholds.clone()
    assert cascade.bfloat16().thresholds.equal(expected)
    assert next(cascade.parameters()).dtype == torch.bfloat16


def test_thresholds_are_not_found_of_nan():
    with pytest.raises(ValueError, match="NaN or infinite"):
        find_thresholds(torch.tensor([[0.5, torch.nan], [0.9, 0.9]]), [0.5, 0.5])
