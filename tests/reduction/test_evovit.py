"""Slow and fast updating against the definition, its schedule, and the second head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import sources
from foveate.tasks import Classification, ReducedClassification
from foveate.training import Recipe, train


def small(**options):
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=6, num_heads=3, num_classes=5, **options
    )
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def updated(block, x):
    """One block as it is, and what its class token attends to, summed over heads."""
    y = block.norm1(x)
    q, k, _ = block.attn.qkv(y).unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(-1)
    return block(x), weights[:, :, 0, 1:].sum(1)[0]


def by_definition(vit, image, starts, representative, tradeoff):
    """The tokens of one image behind the blocks, with half of the patches updated at a time."""
    x = vit._pos_embed(vit.patch_embed(image))
    g = None
    for first, end in zip([0, *starts], [*starts, len(vit.blocks)], strict=True):
        if first == 0:
            for block in vit.blocks[:end]:
                x, g = updated(block, x)
            continue
        order = g.argsort(descending=True)
        slow, fast = order[: len(g) // 2], order[len(g) // 2 :]
        tokens = [x[:, :1], x[:, 1:][:, slow]]
        if representative:
            share = g[fast] / g[fast].sum()
            start = (share[:, None] * x[0, 1:][fast]).sum(0)
            tokens.append(start[None, None])
        y = torch.cat(tokens, 1)
        for block in vit.blocks[first:end]:
            y, seen = updated(block, y)
            g[slow] = (1 - tradeoff) * g[slow] + tradeoff * seen[: len(slow)]
        x = x.clone()
        x[:, :1] = y[:, :1]
        if representative:
            x[:, 1 + fast] += y[:, -1:] - start
        x[:, 1 + slow] = y[:, 1 : 1 + len(slow)]
    return x


@pytest.mark.parametrize("representative", [False, True])
@pytest.mark.parametrize("layerwise", [False, True])
def test_it_is_its_definition(layerwise, representative, images):
    options = {"layerwise": layerwise, "representative": representative, "tradeoff": 0.3}
    starts = [2, 3, 4, 5] if layerwise else [2, 4]
    with torch.no_grad():
        plain = small()
        expected = [by_definition(plain, x[None], starts, representative, 0.3) for x in images]
        found = foveate.reduce(small(), "evovit", **options).forward_features(images)
        torch.testing.assert_close(found, plain.norm(torch.cat(expected)))


def test_sources_says_which_patches_wait_and_that_all_come_back(images):
    found = sources(foveate.reduce(small(), "evovit"), images)
    assert list(found) == [2, 4, 6]
    assert all(((found[stage] >= 0).sum(1) == 8).all() for stage in (2, 4))
    assert torch.equal(found[6], torch.arange(16).expand(2, -1))
    pruned = foveate.reduce(small(), "evovit", prune=True)
    dropped = sources(pruned, images)
    assert torch.equal(dropped[6], dropped[4])
    assert pruned.forward_features(images).shape == (2, 1 + 8, 24)
    stood_for = sources(foveate.reduce(small(), "evovit", representative=True), images)[2]
    assert ((stood_for == 8).sum(1) == 8).all()


def test_the_class_token_has_a_head_of_its_own_where_the_patches_are_classified(images):
    model = foveate.reduce(small(global_pool="avg"), "evovit").train()
    assert len(foveate.added(model)) == 4
    labels = torch.tensor([0, 3])
    parts = ReducedClassification(Classification(5)).losses(model, (images, labels))
    parts["loss"].backward()
    assert all(parameter.grad is not None for parameter in foveate.added(model))
    assert foveate.added(foveate.reduce(small(), "evovit")) == []


class OneBatch:
    """The same two images in every epoch."""

    def __init__(self, images):
        self.batch = images, torch.tensor([0, 3])

    def set_epoch(self, epoch):
        pass

    def __len__(self):
        return 1

    def __iter__(self):
        yield self.batch


class Noting(ReducedClassification):
    """What each loss was computed with."""

    def losses(self, model, batch):
        self.layerwise = [*getattr(self, "layerwise", []), model.blocks.layerwise]
        return super().losses(model, batch)


@pytest.mark.parametrize(("epochs", "expected"), [(3, [True, True, False]), (1, [True])])
def test_training_goes_from_layers_to_stages(epochs, expected, images, tmp_path: Path):
    model = foveate.reduce(small(), "evovit", layerwise=0.6)
    assert not model.blocks.layerwise
    task = Noting(Classification(5))
    recipe = Recipe(epochs=epochs, warmup_epochs=0)
    train(model, task, OneBatch(images), OneBatch(images), recipe, tmp_path)
    assert task.layerwise == expected
    assert not model.blocks.layerwise


def test_what_is_layerwise_for_good_stays_so():
    model = foveate.reduce(small(), "evovit", layerwise=True)
    model.blocks.progress(1.0)
    assert model.blocks.layerwise
