"""What PVT has of its own: a class token in its last stage, and embeddings of positions."""

from __future__ import annotations

import pytest
import torch

from foveate.models.pvt import pvt_tiny
from tests.published.golden import load_case

SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_heads": (1, 1, 1, 1)}


def create(**kwargs):
    torch.manual_seed(0)
    return pvt_tiny(num_classes=3, **{**SMALL, **kwargs}).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_class_token_or_the_map_is_classified(x):
    model = create()
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 1 + 2 * 3, 32)
    token, features = tokens[:, 0], tokens[:, 1:]
    torch.testing.assert_close(model(x), model.head.fc(token))
    pooled = create(global_pool="avg")
    torch.testing.assert_close(pooled(x), pooled.head.fc(features.mean(1)))
    model.reset_classifier(3, "avg")
    assert not torch.allclose(model(x), model.head.fc(token))


@torch.no_grad()
def test_the_map_attends_to_the_class_token(x):
    model = create()
    before = model.forward_features(x)[:, 1:]
    model.stages[3].downsample.cls_token.normal_()
    assert not torch.allclose(model.forward_features(x)[:, 1:], before)


@torch.no_grad()
def test_embeddings_made_for_another_size_are_resampled(x):
    small, large = create(img_size=(64, 96)), create(img_size=(128, 192))
    large.load_state_dict(small.state_dict())
    assert large.stem.pos_embed.shape == (1, 8, 32, 48)
    assert torch.allclose(large.stem.pos_embed.mean(), small.stem.pos_embed.mean(), atol=1e-3)
    with pytest.raises(RuntimeError, match="pos_embed"):
        create(dims=(16, 16, 24, 32)).load_state_dict(small.state_dict())


def test_a_published_map_that_is_not_square_is_read_by_the_models_size():
    model = create(img_size=(64, 96))
    positions = torch.arange(16 * 24).float()[None, :, None].expand(1, -1, 8)
    embeddings = model.convert_published({"pos_embed1": positions})["stem.pos_embed"]
    assert torch.equal(embeddings[0, 0], torch.arange(16 * 24).float().view(16, 24))


@torch.no_grad()
def test_published_weights_load_through_timm(tmp_path):
    path = tmp_path / "pvt.pth"
    golden = load_case("pvt_tiny")
    torch.save(golden.state, path)
    overlay = {"file": str(path)}
    model = pvt_tiny(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3).eval()
    published = golden.state["block4.1.mlp.fc2.weight"]
    assert torch.equal(model.stages[3].blocks[1].mlp.fc2.weight, published)
    with pytest.raises(RuntimeError, match=r"Missing key|size mismatch"):
        create(pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize(
    "options",
    [
        {"sr_ratios": (8, 4, 2, 2)},
        {"attention": ("spatial_reduction", "slide", "slide", "slide")},
    ],
)
def test_the_last_stage_must_be_left_to_full_attention(options):
    with pytest.raises(ValueError, match="class token"):
        create(**options)
