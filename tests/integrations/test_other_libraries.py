"""Libraries that need no more than ``foveate.insert`` and ``foveate.replace``."""

from __future__ import annotations

import copy

import pytest
import torch

import foveate


@torch.no_grad()
def test_segmentation_models(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    x = torch.rand(2, 3, 64, 96)
    before, state = model(x), copy.deepcopy(model.state_dict())
    foveate.insert(model, "cbam", where="encoder.*", example=x)
    assert torch.equal(model(x), before)
    assert len(foveate.changes(model)) == 8
    assert model.load_state_dict(state, strict=False).unexpected_keys == []


@torch.no_grad()
def test_transformers_vision_models():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    x = torch.rand(2, 3, 32, 32)
    before = model(x).logits
    foveate.insert(model, "cbam", example=x)
    assert torch.equal(model(x).logits, before)
    assert len(foveate.changes(model)) == 4
    foveate.restore(model)
    foveate.replace(model, "attention", "multi_head", example=x)
    assert model(x).logits.shape == (2, 5)
    assert len(foveate.changes(model)) == 2


@torch.no_grad()
def test_outputs_that_are_dicts_are_changed_too():
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    model = transformers.ConvNextModel(config).eval()
    x = torch.rand(2, 3, 64, 64)
    before = model(x)
    foveate.insert(model, "cbam", at="stage", example=x)
    after = model(x)
    assert type(after) is type(before)
    assert torch.equal(after.last_hidden_state, before.last_hidden_state)
    assert len(foveate.changes(model)) == 4
    foveate.restore(model)
    foveate.insert(model, "cbam", at="stage", start="naive", example=x)
    assert not torch.equal(model(x).last_hidden_state, before.last_hidden_state)
