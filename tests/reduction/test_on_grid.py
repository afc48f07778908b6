"""What a reduced model dropped, merged and attends to, on the image's grid of patches."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import attention_maps, picture, source_maps, sources
from foveate.reduction.on_grid import patches_of

REDUCERS = [
    ("tome", {"r": (2, 0, 3, 1)}),
    ("dynamicvit", {"keep": 0.6, "stages": (1, 2)}),
    ("evovit", {"keep": 0.6, "representative": True}),
    ("token_pooling", {"keep": 0.6}),
    ("psvit", {}),
]


def small(reducer, options, **others):
    torch.manual_seed(0)
    sizes = {"img_size": (24, 32), "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    model = VisionTransformer(**sizes, num_classes=5, **others).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # maps that differ from place to place
    return foveate.reduce(model, reducer, **options)


@pytest.fixture
def images():
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def unfused():
    set_fused_attn(False)
    yield
    set_fused_attn(True)


def test_sources_lie_on_the_grid(images):
    model = small("tome", {"r": 2})
    maps, flat = source_maps(model, images), sources(model, images)
    assert list(maps) == list(flat) == [0, 1, 2, 3]
    assert all(tokens.shape == (2, 3, 4) for tokens in maps.values())
    assert all(torch.equal(maps[index].flatten(1), flat[index]) for index in maps)
    assert source_maps(small("vtp", {}), images) == {}


def test_patches_of_each_token():
    tokens = torch.tensor([[0, 1, 0, -1, 2, 0], [-1, -1, 3, 3, 0, 1]])
    assert patches_of(tokens).tolist() == [[3, 1, 3, 0, 1, 3], [0, 0, 2, 2, 1, 1]]


# The picture


def column(drawn, number):
    """The two images in a column of the picture, in whole numbers (2, 24, 32, 3)."""
    pixels = np.asarray(drawn).astype(int)[16:, number * (32 + 8) :][:, :32]
    return np.stack([pixels[:24], pixels[24 + 8 :]])


def test_dropped_patches_are_dimmed_and_others_as_they_were(images):
    model = small("dynamicvit", {"keep": 0.5, "stages": (1, 2)})
    drawn = picture(model, images, torch.full((2, 3, 24, 32), 0.4))
    assert drawn.size == (3 * 40 - 8, 16 + 2 * 32 - 8)
    assert (column(drawn, 0) == 102).all()
    for number, tokens in enumerate(source_maps(model, images).values(), 1):
        dropped = (tokens < 0).numpy().repeat(8, 1).repeat(8, 2)
        assert dropped.any()
        pixels = column(drawn, number)
        assert (pixels[dropped] == round(255 * (0.2 * 0.4 + 0.8))).all()
        assert (pixels[~dropped] == 102).all()


def test_merged_patches_share_a_color_inside_an_outline(images):
    model = small("tome", {"r": (3, 0, 0, 0)})
    pixels = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    drawn = column(picture(model, images, pixels), 1)
    tokens = source_maps(model, images)[0]
    for b in range(2):
        for token in tokens[b].unique():
            rows, columns = (tokens[b] == token).nonzero(as_tuple=True)
            inner = [drawn[b, 8 * r + 2, 8 * c + 2] for r, c in zip(rows, columns, strict=True)]
            own = [
                pixels[b, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
                for r, c in zip(rows, columns, strict=True)
            ]
            alone = own[0][:, 2, 2]
            expected = alone if len(own) == 1 else torch.stack(own).mean((0, 2, 3))
            assert np.abs(np.stack(inner) - 255 * expected.numpy()).max() < 0.51
    border = (tokens[0, :, :-1] != tokens[0, :, 1:]).numpy()
    lines = drawn[0][2::8, 7:-1:8]
    drawn_there = (lines == 0).all(-1) | (lines == 255).all(-1)
    assert drawn_there.any()
    assert not (drawn_there & ~border).any()


def test_small_images_are_drawn_larger_and_from_least_to_greatest():
    model = timm.create_model(
        "vit_tiny_patch16_224", patch_size=4, img_size=16, embed_dim=24, depth=2, num_heads=2
    )
    foveate.reduce(model.eval(), "tome", r=4)
    drawn = picture(model, torch.linspace(-2, 3, 3 * 256).view(1, 3, 16, 16))
    assert drawn.size == (3 * 40 - 8, 16 + 32)
    first = np.asarray(drawn)[16:, :32]
    assert (first.min(), first.max()) == (0, 255)


def test_what_cannot_be_drawn_is_refused(images):
    with pytest.raises(ValueError, match="no block of this model drops or merges"):
        picture(small("vtp", {}), images)
    with pytest.raises(ValueError, match="pixels must be as large as images"):
        picture(small("tome", {}), images, torch.zeros(2, 3, 16, 16))


# Attention maps


def by_hand(model, images, tokens_of, sized, row):
    """Each block's map from what its ``qkv`` gives, the definition written out."""
    found = {}
    for index, block in enumerate(model.blocks.blocks):
        block.attn.qkv.register_forward_hook(lambda m, a, out, i=index: found.update({i: out}))
    model(images)
    maps = {}
    for index, out in found.items():
        q, k, _ = out.unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)  # (B, h, P + M, D)
        tokens = tokens_of(index)
        count = torch.ones(2, q.shape[2])
        for b in range(2):
            for token in tokens[b].unique():
                if token >= 0:
                    count[b, 1 + token] = (tokens[b] == token).sum()
        scores = q @ k.transpose(2, 3) * 8**-0.5 + sized * count.log()[:, None, None]
        weights = scores.softmax(-1).mean(1)
        each = torch.zeros(2, 12)
        for b in range(2):
            for patch, token in enumerate(tokens[b]):
                asking = 0 if row is None else 1 + tokens[b, row]
                if token >= 0:
                    each[b, patch] = weights[b, asking, 1 + token] / count[b, 1 + token]
        maps[index] = each.view(2, 3, 4)
    return maps


@pytest.mark.parametrize("query", [None, (1, 2)])
def test_maps_of_merged_tokens_are_as_by_hand(images, query):
    model = small("tome", {"r": (2, 0, 3, 1)})
    maps = attention_maps(model, images, query)
    before = [torch.arange(12).expand(2, -1), *sources(model, images).values()]
    # Noted after blocks 0, 2 and 3, between attention and MLP.
    tokens = {0: before[0], 1: before[1], 2: before[1], 3: before[2]}
    expected = by_hand(model, images, tokens.get, True, None if query is None else 6)
    assert list(maps) == list(expected)
    for index, each in maps.items():
        torch.testing.assert_close(each, expected[index])


def test_maps_of_a_model_that_drops_are_as_by_hand(images):
    model = small("dynamicvit", {"keep": 0.6, "stages": (1, 2)})
    maps = attention_maps(model, images)
    noted = sources(model, images)
    tokens = {0: torch.arange(12).expand(2, -1), 1: noted[1], 2: noted[2], 3: noted[2]}
    expected = by_hand(model, images, tokens.get, False, None)
    for index, each in maps.items():
        torch.testing.assert_close(each, expected[index])
        assert (each[tokens[index].view(2, 3, 4) < 0] == 0).all()


@pytest.mark.parametrize(("reducer", "options"), REDUCERS)
def test_maps_do_not_depend_on_how_attention_is_computed(reducer, options, images, unfused):
    slow = attention_maps(small(reducer, options), images)
    set_fused_attn(True)
    fast = attention_maps(small(reducer, options), images)
    assert list(fast) == [0, 1, 2, 3]
    for index, each in fast.items():
        torch.testing.assert_close(slow[index], each)
        assert (each >= 0).all()
        assert (each.sum((1, 2)) <= 1 + 1e-5).all()
        assert each.sum() > 0.5


def test_a_patch_that_was_dropped_asks_nothing(images):
    model = small("dynamicvit", {"keep": 0.5, "stages": (1,)})
    left = source_maps(model, images)[1] >= 0
    (row, column) = (left[0] & ~left[1]).nonzero()[0].tolist()
    maps = attention_maps(model, images, (row, column))
    assert maps[0].isfinite().all()
    assert maps[3][0].isfinite().all()
    assert maps[3][1].isnan().all()
    with pytest.raises(ValueError, match="outside the 3x4 grid"):
        attention_maps(model, images, (3, 0))


def test_without_a_class_token_all_tokens_ask(images):
    model = small("tome", {"r": 1}, class_token=False, global_pool="avg")
    total = attention_maps(model, images)[0].sum((1, 2))
    torch.testing.assert_close(total, torch.ones(2))
    each = [attention_maps(model, images, (i, j))[0] for i in range(3) for j in range(4)]
    torch.testing.assert_close(torch.stack(each).mean(0), attention_maps(model, images)[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cait_xxs24_224", {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8}),
        ("eva02_tiny_patch14_224", {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8}),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "depth": 3, "num_heads": 2,
                                           "patch_size": 8}),
    ],
)  # fmt: skip
def test_maps_of_other_families(name, options):
    model = timm.create_model(name, img_size=32, **options).eval()
    foveate.reduce(model.train(), "tome", r=2)
    maps = attention_maps(model, torch.randn(2, 3, 32, 32))
    assert [each.shape for each in maps.values()] == [(2, 4, 4)] * 3
    assert all((each > 0).all() for each in maps.values())
    assert model.training
    assert model.blocks.watch is None
    assert not any(block.attn.proj._forward_pre_hooks for block in model.blocks.blocks)
