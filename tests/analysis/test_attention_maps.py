from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

import foveate
from foveate._attention_rows import FusedAttention
from foveate.analysis import layer_maps
from foveate.analysis._token_grids import Tokens, keys_of, tokens_of
from foveate.registry import describe

SHOWN = [
    name
    for name in foveate.list_attention()
    if "weights" in describe(name).tags and describe(name).role in ("mixer", "token_mixer")
]
SMALL = {
    "vit_tiny_patch16_224": {"img_size": (64, 96), "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": (64, 96), "depth": 2},
    "vit_small_patch14_reg4_dinov2": {"img_size": (56, 70), "depth": 2},
    "beit_base_patch16_224": {"img_size": (64, 96), "depth": 2, "embed_dim": 48, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": (56, 84), "depth": 2},
    "pvt_v2_b0": {"size": (96, 160)},
    "pvt_v2_b2_li": {"size": (64, 96)},
    "cait_xxs24_224": {"img_size": (64, 96), "depth": 2},
    "xcit_nano_12_p16_224": {"size": (64, 96), "depth": 2},
}


class Stemmed(nn.Module):
    """Patches of 2 x 2 pixels, then a mechanism on their map or tokens."""

    def __init__(self, name: str, dim: int = 64) -> None:
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, dim, 2, 2), foveate.create_attention(name, dim)

    def features(self, images):
        x = self.stem(images)
        return x.flatten(2).mT if self.attention.role == "token_mixer" else x

    def forward(self, images):
        return self.attention(self.features(images))


@pytest.mark.parametrize("name", SHOWN)
def test_maps_of_mechanisms_are_their_weights(name):
    rows, columns = 8, 12
    model, images = Stemmed(name).eval(), torch.randn(2, 3, 2 * rows, 2 * columns)
    queries = [(0, 0), (7, 13), (15, 23)]
    layer = foveate.attention_maps(model, images, queries=queries)["attention"]
    weights = model.attention.weights(model.features(images))
    asked = [y // 2 * columns + x // 2 for y, x in queries]
    close(layer.maps, weights[:, :, asked].unflatten(-1, (rows, columns)))
    assert layer.queries.tolist() == [[0, 0], [3, 6], [7, 11]]
    assert layer.heads == tuple(range(weights.shape[1]))


@pytest.mark.parametrize("name", SMALL)
def test_maps_of_timms_models_are_what_they_compute_without_fused_attention(name):
    model, images = small(name)
    fused = foveate.attention_maps(model, images)
    with unfused(model) as explicit:
        model(images)
    assert list(fused.layers) == list(explicit)
    assert not fused.left_out
    for layer in fused.layers.values():
        close(dense(layer), explicit[layer.name])


def test_class_and_register_tokens_stand_apart():
    found = foveate.attention_maps(*small("vit_small_patch14_reg4_dinov2"), queries=[(55, 69)])
    layer = found["blocks.1.attn"]
    assert layer.maps.shape == (2, 6, 1, 4, 5)
    assert layer.prefix_maps.shape == (2, 6, 5, 4, 5)
    assert layer.to_prefix.shape == (2, 6, 1, 5)
    np.testing.assert_allclose(layer.maps.sum((3, 4)) + layer.to_prefix.sum(3), 1, atol=1e-5)


def test_channels_are_said_to_be_channels():
    found = foveate.attention_maps(*small("xcit_nano_12_p16_224"))
    assert [layer.kind for layer in found.layers.values()] == ["channels"] * 2 + ["positions"] * 2
    assert found["blocks.0.attn"].maps.shape == (2, 4, 32, 32)
    assert found["cls_attn_blocks.0.attn"].prefix_maps.shape == (2, 4, 1, 4, 6)


@pytest.mark.parametrize("swin", [SwinTransformer, SwinTransformerV2])
@pytest.mark.parametrize("size", [(64, 64), (36, 28)], ids=["divided", "padded"])
def test_windows_are_put_back_on_the_map(swin, size):
    """The maps' means of values are the block's output, shifts and padding included."""
    model = swin(size, 4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
    seen = {}
    for name, block in randomize(model).eval().named_modules():
        if hasattr(block, "_attn"):
            block._attn = noted(seen, f"{name}.attn", block._attn)
    found = foveate.attention_maps(model, torch.randn(2, 3, *size))
    assert list(found.layers) == list(seen)
    for name, layer in found.layers.items():
        x, y = seen[name]
        close(by_maps(model.get_submodule(name), x, layer).detach().numpy(), y)
        assert layer.grid == x.shape[1:3]
    assert (found[0].to_padding.max() > 0) == (size == (36, 28))


def noted(seen, name, call):
    def attention(x):
        seen[name] = x, call(x)
        return seen[name][1]

    return attention


def by_maps(attention, x, layer):
    """Means of the values by a layer's maps; what is padded has the values' bias."""
    v_bias = attention.v_bias if hasattr(attention, "v_bias") else attention.qkv.bias.chunk(3)[2]
    weight = attention.qkv.weight.chunk(3)[2]
    heads = attention.num_heads
    v = (x.flatten(1, 2) @ weight.T + v_bias).unflatten(-1, (heads, -1)).transpose(1, 2)
    y = torch.from_numpy(layer.maps).flatten(3) @ v
    y = y + torch.from_numpy(layer.to_padding)[..., None] * v_bias.view(heads, 1, -1)
    return attention.proj(y.transpose(1, 2).flatten(2)).view_as(x)


@pytest.mark.parametrize("masked", [False, True])
def test_multihead_attention_of_torch(masked):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, x):
            return self.layer(self.patches(x).flatten(2).mT, src_mask=mask)

    mask = torch.ones(24, 24).triu(2).bool() if masked else None
    model, images = randomize(Model()).eval(), torch.randn(2, 3, 16, 24)
    found = foveate.attention_maps(model, images, queries=[(3, 3), (15, 20)])
    x = model.patches(images).flatten(2).mT
    _, weights = model.layer.self_attn(x, x, x, attn_mask=mask, average_attn_weights=False)
    close(found["layer.self_attn"].maps, weights[:, :, [0, 23]].unflatten(-1, (4, 6)))


@pytest.mark.parametrize("masked", ["no", "bool", "added", "causal"])
def test_rows_of_fused_attention_are_those_of_its_weights(masked):
    q, k = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8)
    v = torch.eye(7).expand(2, 2, 7, 7)
    masks = {"bool": torch.rand(2, 1, 1, 7) > 0.3, "added": torch.randn(4, 7, 7)}
    call = FusedAttention(
        q, k, v, masks.get(masked), is_causal=masked == "causal", scale=0.5, enable_gqa=True
    )
    explicit = nn.functional.scaled_dot_product_attention(**call._asdict())
    torch.testing.assert_close(call.rows(), explicit)
    torch.testing.assert_close(call.rows(torch.tensor([3, 0])), explicit[:, :, [3, 0]])
    torch.testing.assert_close(call.head(3).rows(torch.tensor([2])), explicit[:, 3:, [2]])
    of_each = call.rows(torch.tensor([[1], [5]]))
    torch.testing.assert_close(of_each, torch.stack((explicit[0, :, [1]], explicit[1, :, [5]])))


@pytest.mark.parametrize(
    ("count", "image", "expected"),
    [
        (196, (224, 224), Tokens(0, (14, 14))),
        (197, (224, 224), Tokens(1, (14, 14))),
        (25, (64, 96), Tokens(1, (4, 6))),
        (1, (32, 32), Tokens(0, (1, 1))),
        (83, (64, 96), None),
    ],
)
def test_the_grid_of_tokens_is_that_of_equal_steps(count, image, expected):
    assert tokens_of(count, [], image) == expected


def test_a_smaller_grid_of_keys_is_that_of_equal_steps():
    assert keys_of(6, Tokens(0, (5, 7))) == Tokens(0, (2, 3))
    assert keys_of(7, Tokens(1, (4, 6))) == Tokens(1, (2, 3))
    assert keys_of(49, Tokens(0, (16, 24))) == Tokens(0, (7, 7))


def test_layers_and_heads_are_chosen():
    model, images = small("vit_tiny_patch16_224")
    whole = foveate.attention_maps(model, images)
    part = foveate.attention_maps(model, images, layers=[1], heads=[2, 0])
    assert list(part.layers) == ["blocks.1.attn"]
    np.testing.assert_array_equal(part[0].maps, whole["blocks.1.attn"].maps[:, [2, 0]])
    assert part[0].heads == (2, 0)
    assert repr(part[0]) == (
        "LayerMaps('blocks.1.attn', 2 heads, 24 queries of 4x6, positions 4x6, 1 prefix tokens)"
    )


def test_a_model_is_left_as_it_was():
    model, images = small("vit_tiny_patch16_224")
    model.train()
    model.norm.eval()
    foveate.attention_maps(model, images)
    assert model.training
    assert not model.norm.training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": ["blocks.7.attn"]},
            "no attention 'blocks.7.attn'; it has 0: blocks.0.attn, ",
        ),
        ({"layers": [2]}, "no attention 2; it has 0: blocks.0.attn"),
        ({"heads": [3]}, "blocks.0.attn has no head 3; it has 0 to 2"),
        ({"queries": [(64, 0)]}, r"query \(64, 0\) is outside the image of 64x96 pixels"),
        ({"queries": [5]}, "a query is a row and a column in pixels, got 5"),
        ({"images": torch.zeros(3, 64, 96)}, r"expected images \(B, C, H, W\)"),
        ({"images": torch.zeros(1, 3, 64, 96).byte()}, "floating and normalized, got torch.uint8"),
        ({"images": torch.full((1, 3, 64, 96), torch.nan)}, "no finite numbers"),
    ],
)
def test_what_is_not_there_is_refused(options, message):
    model, images = small("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=message):
        foveate.attention_maps(model, **{"images": images, **options})


def test_a_model_without_attention_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), foveate.create_attention("squeeze_excitation", 4))
    with pytest.raises(ValueError, match=r"no attention that can be shown.* is a gate.*looked for"):
        foveate.attention_maps(model, torch.randn(1, 3, 8, 8))


def test_a_reduced_model_is_referred_to_the_maps_of_reduced_models():
    model, images = small("vit_tiny_patch16_224")
    with pytest.raises(
        ValueError, match=r"reduced by .*: foveate\.reduction\.attention_maps shows"
    ):
        foveate.attention_maps(foveate.reduce(model, "tome", r=1), images)


def test_layers_that_cannot_be_shown_are_named_with_the_reason():
    class Model(nn.Sequential):
        def forward(self, x):
            x = super().forward(x)  # groups of two rows
            y = x.unflatten(2, (-1, 2)).transpose(1, 2).flatten(3).flatten(0, 1).mT[:, None]
            return nn.functional.scaled_dot_product_attention(y, y, y)

    model = Model(
        nn.Conv2d(3, 8, 1), foveate.create_attention("window", 8, num_heads=2, window_size=4)
    )
    found = foveate.attention_maps(model, torch.randn(1, 3, 8, 8))
    assert list(found.layers) == ["1"]
    assert "within 4 groups of each image" in found.left_out["Model"]
    assert "left out: Model" in repr(found)


def test_too_many_maps_are_refused(monkeypatch):
    monkeypatch.setattr(layer_maps, "LARGEST", 20_000)
    model, images = small("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="ask for some queries, layers or heads"):
        foveate.attention_maps(model, images)
    assert len(foveate.attention_maps(model, images, queries=[(0, 0)])) == 2


def test_a_figure_has_a_map_a_head_and_is_the_same_each_time():
    model, images = small("vit_tiny_patch16_224")
    found = foveate.attention_maps(model, images, queries=[(10, 90)])
    figures = [found.plot(0), found.plot(0)]
    drawn = [np.asarray(pixels(figure)) for figure in figures]
    np.testing.assert_array_equal(*drawn)
    axes = figures[0].axes
    assert len(axes) == 6
    np.testing.assert_array_equal(axes[4].images[0].get_array(), found[1].maps[0, 1, 0])
    np.testing.assert_allclose(axes[4].lines[0].get_xydata(), [[88, 8]])
    np.testing.assert_array_equal(
        found.plot().axes[0].images[0].get_array(), found[0].prefix_maps[0, 0, 0]
    )
    with pytest.raises(ValueError, match="no query 1; it has 0 to 0"):
        found.plot(1)
    with pytest.raises(ValueError, match="no image 2; there are 0 to 1"):
        found.plot(image=2)


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.buffer_rgba()


def small(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A small form of a model of timm's, whose weights are far from equal, and two images."""
    options = dict(SMALL[name])
    size = options.pop("size", None) or options["img_size"]
    torch.manual_seed(0)
    return randomize(timm.create_model(name, num_classes=2, **options)).eval(), torch.randn(
        2, 3, *size
    )


def randomize(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5)
    return model


@contextmanager
def unfused(model: nn.Module):
    """Within, timm's attention computes its weights one by one; what it sums values with."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "attn_drop"):
            module.fused_attn = False
            module.attn_drop.register_forward_pre_hook(
                lambda _, x, name=name: found.update({name: x[0]})
            )
    yield found


def dense(layer: layer_maps.LayerMaps) -> np.ndarray:
    """All weights of a layer (B, h, N, M), as a model has them."""
    if layer.kind == "channels":
        return layer.maps
    rows = [
        np.concatenate((beside, torch.from_numpy(maps).flatten(3)), -1)
        for beside, maps in (
            (layer.prefix_to_prefix, layer.prefix_maps),
            (layer.to_prefix, layer.maps),
        )
    ]
    return np.concatenate(rows, 2)


def close(found: np.ndarray, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(torch.from_numpy(found), expected.detach(), atol=atol, rtol=0)
