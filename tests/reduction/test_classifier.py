"""A reduced model gets another classifier: of other classes, or of other tokens."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.tasks import Classification, ReducedClassification


def small(**options):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5, **options
    ).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def itself(model):
    return model


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("came_by", [itself, copy.deepcopy, pickled])
@pytest.mark.parametrize(
    ("reducer", "options"), [("tome", {"r": 3}), ("token_pooling", {"keep": 0.5})]
)
def test_tokens_are_put_back_once_their_mean_is_classified(reducer, options, came_by, images):
    first = foveate.reduce(small(), reducer, **options)
    model = came_by(first)
    assert model.forward_features(images).shape[1] < 17
    model.reset_classifier(3, "avg")
    assert model.forward_features(images).shape[1] == 17
    assert first.num_classes == (3 if model is first else 5)
    model.reset_classifier(3, "token")
    assert model.forward_features(images).shape[1] < 17


def test_what_tells_the_blocks_goes_with_the_reduction():
    model = foveate.reduce(small(), "tome")
    alive = weakref.ref(model)
    foveate.restore(model)
    assert "reset_classifier" not in vars(model)
    model = foveate.reduce(model, "tome")
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()


def losses(model, images, labels=(0, 3)):
    task = ReducedClassification(Classification(model.num_classes))
    return task.losses(model.train(), (images, torch.tensor(labels)))


def test_the_head_of_the_class_token_has_the_new_classes(images):
    model = foveate.reduce(small(global_pool="avg"), "evovit")
    norm = model.blocks.blocks[-1].evovit.norm
    model.reset_classifier(8)
    assert model.blocks.blocks[-1].evovit.head.out_features == 8
    assert model.blocks.blocks[-1].evovit.norm is norm
    assert losses(model, images, (0, 7))["loss"].isfinite()
    model.reset_classifier(8, "token")
    assert foveate.added(model) == []
    assert losses(model, images, (0, 7))["loss"].isfinite()
    model.reset_classifier(8, "avg")
    assert len(foveate.added(model)) == 4


def test_the_head_of_the_class_token_learns_the_same_where_blocks_are_computed_again(images):
    gradients = []
    for again in (False, True):
        model = foveate.reduce(small(global_pool="avg"), "evovit")
        model.set_grad_checkpointing(again)
        losses(model, images)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)
