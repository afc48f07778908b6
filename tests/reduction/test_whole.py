"""A reduced model is looked at, saved, built again and undone like any changed model."""

from __future__ import annotations

import warnings

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import foveate
from foveate.reduction import reducer_of, sources
from foveate.surgery import load, save

REDUCERS = [
    ("tome", {"r": (2, 0, 3, 1)}),
    ("dynamicvit", {"keep": 0.6, "stages": (1, 2)}),
    ("evovit", {"keep": 0.6, "layerwise": True}),
    ("token_pooling", {"keep": 0.6, "clustering": "means"}),
]


def small():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5
    ).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("reducer", "options"), REDUCERS)
def test_a_saved_model_is_reduced_again_as_its_file_says(reducer, options, images, tmp_path):
    model = foveate.reduce(small(), reducer, **options)
    save(model, tmp_path / "model.safetensors")
    again = load(small(), tmp_path / "model.safetensors")
    assert torch.equal(again(images), model(images))
    assert foveate.changes(again).recipe == foveate.changes(model).recipe
    assert load(again, tmp_path / "model.safetensors") is again
    assert f"{reducer}  reduced" in str(foveate.changes(model))
    with pytest.raises(ValueError, match="changed in another way"):
        load(foveate.reduce(small(), "tome", r=1), tmp_path / "model.safetensors")


@pytest.mark.parametrize(("reducer", "options"), REDUCERS)
def test_a_reduction_is_undone(reducer, options, images):
    model, plain = foveate.reduce(small(), reducer, **options), small()
    foveate.restore(model)
    assert torch.equal(model(images), plain(images))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert type(model.blocks) is nn.Sequential
    assert reducer_of(model) is None
    assert len(foveate.changes(model)) == 0
    assert len(model.forward_intermediates(images)[1]) == 4


def test_a_recipe_that_states_no_reduction_is_refused():
    recipe = {**foveate.changes(small()).recipe, "reduction": {"reducer": "tome"}}
    with pytest.raises(ValueError, match="names no reducer"):
        foveate.apply(small(), recipe)


def test_what_a_reducer_adds_has_a_learning_rate_of_its_own():
    assert foveate.added(foveate.reduce(small(), "tome")) == []
    model = foveate.reduce(small(), "dynamicvit", stages=[1])
    added = {id(p) for p in foveate.added(model)}
    names = [name for name, p in model.named_parameters() if id(p) in added]
    assert names
    assert all(name.startswith("blocks.1.dynamicvit.") for name in names)


def test_reduced_models_are_not_changed_by_what_needs_maps():
    with pytest.raises(ValueError, match=r"foveate\.restore"):
        foveate.insert(foveate.reduce(small(), "tome"), "squeeze_excitation")


def test_sources_follow_each_reduction(images):
    found = sources(foveate.reduce(small(), "tome", r=(2, 0, 3, 1)), images)
    assert [int(token.max()) + 1 for token in found.values()] == [14, 11, 10]
    assert list(found) == [0, 2, 3]
    found = sources(foveate.reduce(small(), "dynamicvit", keep=0.5, stages=(1, 2)), images)
    assert {index: (token >= 0).sum(1).tolist() for index, token in found.items()} == {
        1: [8, 8],
        2: [4, 4],
    }
    dropped = found[1] < 0
    assert bool((found[2][dropped] == -1).all())


def test_what_is_assigned_to_a_block_is_the_models(images):
    model = foveate.reduce(small(), "tome", r=2)
    for block in model.blocks:
        block.mlp = nn.Identity()
    assert all(type(block.mlp) is nn.Identity for block in model.blocks.blocks)
    assert not any(".mlp." in name for name in model.state_dict())


@pytest.mark.parametrize("where", ["", ".attn"])
def test_a_hook_that_is_not_run_is_said(where, images):
    model = foveate.reduce(small(), "tome", r=2)
    hook = model.get_submodule(f"blocks.1{where}").register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=rf"a hook on blocks\.1{where} is not run"):
        model(images)
    hook.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images)
