"""Images of which DynamicViT keeps nothing, and models that it does not take."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.tasks import Classification, ReducedClassification
from foveate.tasks.reduced_classification import tokens_loss


def small(**options):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=3, **options
    )


@pytest.fixture
def keeping_nothing():
    """A model whose first network drops every patch of every image."""
    model = foveate.reduce(small(), "dynamicvit", keep=0.5).train()
    with torch.no_grad():
        model.blocks.blocks[1].dynamicvit.out_conv[4].bias.copy_(torch.tensor([-100.0, 100.0]))
    return model


def test_training_goes_on_where_every_patch_of_an_image_is_dropped(keeping_nothing):
    batch = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    parts = ReducedClassification(Classification(3), teacher=small()).losses(keeping_nothing, batch)
    assert all(part.isfinite() for part in parts.values())
    parts["loss"].backward()
    assert all(p.grad.isfinite().all() for p in keeping_nothing.parameters() if p.grad is not None)


@pytest.mark.parametrize("how", ["mse", "kl"])
def test_no_tokens_differ_by_nothing(how):
    mine = torch.randn(2, 4, 3, requires_grad=True)
    loss = tokens_loss(mine, torch.randn(2, 4, 3), torch.zeros(2, 4), how)
    loss.backward()
    assert loss.item() == 0
    assert mine.grad.abs().max() == 0
