"""Layers at rates of their own."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import foveate
from foveate.models import create_detector, create_segmenter
from foveate.training import Recipe
from foveate.training.optimizer import create_optimizer

RECIPE = Recipe(epochs=1, layer_decay=0.5, weight_decay=0.1)


def scales(model: nn.Module, recipe: Recipe = RECIPE) -> dict[str, float]:
    groups = create_optimizer(model, recipe).param_groups
    of = {id(p): group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["resnet18", "slide_pvt_tiny", "convnext_atto"])
@pytest.mark.parametrize("create", [create_segmenter, create_detector])
@pytest.mark.filterwarnings("ignore")
def test_a_backbone_under_a_head_decays_as_it_does_alone(name, create):
    head = {create_segmenter: "semantic_fpn", create_detector: "retinanet"}[create]
    with torch.device("meta"):
        alone = scales(timm.create_model(name, num_classes=3))
    model = create(head, name, num_classes=3)
    under = scales(model)
    assert max(alone.values()) == 1 > min(alone.values())
    seen = 0
    for key, scale in under.items():
        if not key.startswith("backbone."):
            assert scale == 1, key
            continue
        own = key.removeprefix("backbone.").removeprefix("model.")
        own = own.replace("stages_", "stages.").replace("stem_", "stem.")
        if own in alone:  # PVT has another last stage under a head
            seen += 1
            assert scale == alone[own], key
    assert seen > 40


def test_what_was_added_keeps_its_own_rate_in_its_layer():
    model = timm.create_model("resnet18", num_classes=3)
    foveate.insert(model, "squeeze_excitation", where="layer3.1.bn2")
    recipe = Recipe(epochs=1, layer_decay=0.5, added_lr_scale=10)
    new = {id(p) for p in foveate.added(model)}
    assert new
    found = scales(model, recipe)
    for name, p in model.named_parameters():
        if name.startswith("layer3.1."):
            assert found[name] == 0.5**3 * (10 if id(p) in new else 1), name


def test_a_model_that_does_not_say_its_layers_is_refused():
    with pytest.raises(ValueError, match=r"layer_decay needs a model that says .* Linear does not"):
        create_optimizer(nn.Linear(2, 2), RECIPE)
