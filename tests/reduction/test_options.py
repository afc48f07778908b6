"""What the reducers refuse, in the user's terms."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import foveate
from foveate.reduction import multiply_adds, sources


def small(depth=4, **options):
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=depth, num_heads=3, num_classes=5, **options
    ).eval()


@pytest.mark.parametrize(
    ("reducer", "options", "words"),
    [
        ("dynamicvit", {"keep": 0.0}, "above 0 and at most 1, got 0.0"),
        ("dynamicvit", {"keep": 1.5}, "above 0 and at most 1, got 1.5"),
        ("dynamicvit", {"keep": [0.5, -1, 1]}, "above 0 and at most 1"),
        ("dynamicvit", {"keep": [0.5, 0.4]}, "2 shares for 3 stages"),
        ("dynamicvit", {"stages": [1, 4]}, "of 0 to 3 in this model"),
        ("dynamicvit", {"stages": []}, "of 0 to 3 in this model"),
        ("dynamicvit", {"stages": [2, 1]}, "in order"),
        ("dynamicvit", {"keeps": 0.5}, "did you mean 'keep'"),
        ("tome", {"r": -1}, "at least 0"),
        ("tome", {"r": [1, 2]}, "2 numbers of pairs, and the model has 4 blocks"),
        ("evovit", {"keep": 1.5}, "above 0 and at most 1"),
        ("evovit", {"stages": [0, 2]}, "stages begin at block 1"),
        ("evovit", {"layerwise": 1.5}, "layerwise must be a number in"),
        ("evovit", {"tradeoff": 2.0}, "from 0 to 1, got 2.0"),
        ("evovit", {"tradeoff": [1.0, 0.5]}, "2 weights for 4 blocks"),
        ("token_pooling", {"clustering": "median"}, "did you mean 'means'"),
        ("token_pooling", {"iterations": 0}, "iterations must be"),
        ("token_pooling", {"before": "block", "stages": [0, 2]}, "stages begin at 1"),
        ("tom", {}, "did you mean 'tome'"),
        ("tome", {"r": 2.0}, "a number of pairs of at least 0, or one a block, got 2.0"),
        ("tome", {"r": None}, "or one a block, got None"),
        ("tome", {"r": np.int64(3)}, "or one a block, got"),
        ("dynamicvit", {"keep": None}, "above 0 and at most 1, got None"),
        ("dynamicvit", {"stages": 3}, "of 0 to 3 in this model, got 3"),
        ("evovit", {"keep": None}, "above 0 and at most 1, got None"),
        ("evovit", {"tradeoff": None}, "from 0 to 1, got None"),
        ("psvit", {"share": 3}, "share must be several numbers of blocks, got 3"),
        ("psvit", {"grid": (2, 8)}, "a grid of 4 x 4 patches, got grid="),
        ("dvt", {"grids": 5}, "below the model's 4 rows, got 5"),
        ("dvt", {"relation_reuse": "no"}, "relation_reuse must be True or False, got 'no'"),
        ("dvt", {"feature_reuse": 1}, "feature_reuse must be True or False, got 1"),
        ("tome", {"prop_attn": "no"}, "prop_attn must be True or False, got 'no'"),
        ("token_pooling", {"weighted": "no"}, "weighted must be True or False, got 'no'"),
        ("evovit", {"representative": 2}, "representative must be True or False, got 2"),
        ("evovit", {"prune": "false"}, "prune must be True or False, got 'false'"),
        ("evovit", {"keep": True}, "above 0 and at most 1, got True"),
        ("evovit", {"tradeoff": True}, "from 0 to 1, got True"),
        ("dynamicvit", {"keep": True}, "above 0 and at most 1, got True"),
        ("dynamicvit", {"keep": {0.5, 0.6, 0.7}}, "above 0 and at most 1, got {"),
        ("dynamicvit", {"keep": torch.tensor(0.5)}, "above 0 and at most 1, got tensor"),
        ("vtp", {"keep": True}, "above 0 and at most 1, got True"),
        ("vtp", {"kept": 3}, "4 numbers of channels for each of 4 blocks, got 3"),
        ("vtp", {"kept": [[9, 3, "9", 9]] * 4}, "4 numbers of channels for each of 4 blocks"),
    ],
)
def test_wrong_options_are_refused(reducer, options, words):
    with pytest.raises(ValueError, match=words):
        foveate.reduce(small(), reducer, **options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "ResNet is a model without tokens"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer is a model without tokens"),
        ("beit_base_patch16_224", "blocks.0 of this Beit is a timm.models.beit.Block"),
    ],
)
def test_other_models_are_refused(name, words):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match=words):
        foveate.reduce(model, "tome")


def test_what_is_no_model_or_no_reducer_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module to reduce, got str"):
        foveate.reduce("deit", "tome")
    with pytest.raises(TypeError, match=r"foveate\.contracts\.Reducer"):
        foveate.reduce(small(), nn.Linear)
    with pytest.raises(ValueError, match=r"foveate\.reduce\(model, 'tome'\)"):
        foveate.create_attention("tome", 16)


def test_plain_models_have_no_sources_and_no_cost_here():
    with pytest.raises(ValueError, match="not been reduced"):
        sources(small(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="not been reduced"):
        multiply_adds(small(), 32)


def test_what_would_silently_be_left_out_is_refused():
    changed = foveate.insert(small(), "squeeze_excitation", example=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"foveate\.restore"):
        foveate.reduce(changed, "tome")
    model = foveate.reduce(small(), "tome", r=1)
    with pytest.raises(ValueError, match="attn_mask"):
        model(torch.zeros(1, 3, 32, 32), attn_mask=torch.ones(17, 17))
    with pytest.raises(ValueError, match="fewer tokens than there are patches"):
        model.forward_intermediates(torch.zeros(1, 3, 32, 32))


def test_the_state_of_the_plain_model_is_said_to_leave_the_rest():
    model = foveate.reduce(small(), "dynamicvit")
    with pytest.warns(UserWarning, match="before it was reduced by 'dynamicvit'"):
        model.load_state_dict(small().state_dict())


def test_reducers_are_looked_up_by_name():
    assert {"dynamicvit", "tome"} <= set(foveate.list_reducers())
    assert not set(foveate.list_reducers()) & set(foveate.list_attention())
    assert foveate.list_reducers("tom*") == ["tome"]
    assert foveate.describe("dynamicvit").to_dict()["role"] == "reducer"


def test_evovit_needs_a_block_before_its_stage():
    with pytest.raises(ValueError, match="one is too few"):
        foveate.reduce(small(depth=1), "evovit")


@pytest.mark.parametrize("reducer", ["dynamicvit", "psvit", "dvt"])
def test_patches_dropped_at_random_are_refused_where_their_place_counts(reducer):
    with pytest.raises(ValueError, match="without patch_drop"):
        foveate.reduce(small(patch_drop_rate=0.25), reducer)
    assert foveate.reduce(small(patch_drop_rate=0.25), "tome", r=2) is not None


def test_a_cascade_that_pools_by_attention_has_no_closed_form():
    model = foveate.reduce(small(global_pool="map", class_token=False), "dvt", grids=[2])
    with pytest.raises(ValueError, match=r"AttentionPoolLatent .* no closed form"):
        multiply_adds(model, 32)
    with pytest.raises(ValueError, match="no closed form"):
        model.exit_multiply_adds((32, 32))
