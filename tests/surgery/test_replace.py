from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import foveate
from foveate.surgery.recipe import distance
from tests.surgery.models import convnext, difference, images, nest, resnet, swin, vit

MIXERS = foveate.list_attention(role="mixer")
FITTING = {  # what does not fit maps of 4 x 4, or 40 channels, by default
    "residual_attention": {"levels": 1},
    "selective_kernel": {"groups": 8},
}


class Watching(nn.Module):
    """Gives back its map and remembers it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        return x


def watch(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps that replaced attentions get, in order."""
    foveate.replace(model, "attention", Watching)
    for module in model.modules():
        if isinstance(module, Watching):
            module.given.clear()
    model(x)
    return [given for m in model.modules() if isinstance(m, Watching) for given in m.given]


def outputs_of(model: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: found.update({name: out.detach()})
        )
        for name in names
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names]


@pytest.mark.parametrize("size", [32, (48, 32)])
def test_windows_are_put_together_exactly(size):
    model, x = swin(), images(size)
    maps = watch(model, x)
    names = [f"layers.{i}.blocks.{j}.norm1" for i, j in ((0, 0), (0, 1), (1, 0))]
    for found, norm in zip(maps, outputs_of(model, names, x), strict=True):
        assert torch.equal(found, norm.permute(0, 3, 1, 2))


def test_tokens_in_blocks_are_put_in_order_exactly():
    model, x = nest(), images()
    maps = watch(model, x)
    blocks = outputs_of(model, ["levels.0.transformer_encoder.0.norm1"], x)[0]  # (B, 4, 16, C)
    whole = blocks.view(2, 2, 2, 4, 4, 16).permute(0, 5, 1, 3, 2, 4).reshape(2, 16, 8, 8)
    assert torch.equal(maps[0], whole)


def test_what_goes_back_into_windows_lies_where_it_was():
    model, x = swin(), images()
    before = swin()
    before.load_state_dict(model.state_dict())
    for block in (b for layer in before.layers for b in layer.blocks):
        block.attn = _Identity()
    foveate.replace(model, "attention", Watching)
    assert difference(model(x), before(x)) == 0


class _Identity(nn.Module):
    def forward(self, x, mask=None):
        return x


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False,
                                                            "global_pool": "avg"}])  # fmt: skip
def test_kept_weights_reproduce_the_attention_they_come_from(options):
    model, x = vit(**options), images()
    before = model(x)
    foveate.replace(model, "attention", "multi_head")
    assert {change.kept for change in foveate.changes(model)} == {("qkv", "proj")}
    assert difference(model(x), before) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beit_base_patch16_224", {"depth": 2, "embed_dim": 96, "num_heads": 3}),
        pytest.param("visformer_tiny", {}, marks=pytest.mark.slow),
        pytest.param("maxvit_pico_rw_256", {}, marks=pytest.mark.slow),
    ],
)
def test_split_biases_convolutions_and_interleaved_heads_are_kept(name, options):
    model = timm.create_model(name, num_classes=5, **options).eval()
    module = foveate.places(model).of("attention")[-1].module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for table in (n for n, _ in module.named_parameters() if "rel" in n):
            module.get_parameter(table).zero_()
    last = foveate.places(model).of("attention")[-1].path
    x = images(256 if "256" in name else 224, 1)
    before = model(x)
    foveate.replace(model, "attention", "multi_head", where=last)
    assert foveate.changes(model).table()[0]["kept"] == "qkv, proj"
    assert difference(model(x), before) < 1e-4


class _Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 16, 4, 4), layer

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.TransformerEncoderLayer):
            return self.layer(x)
        return x + self.layer(x, x, x, need_weights=False)[0]


def test_pytorchs_own_attention_is_kept_too():
    model, x = _Block(nn.MultiheadAttention(16, 2, batch_first=True)).eval(), images(32)
    before = model(x)
    foveate.replace(model, "attention", "multi_head", example=x)
    assert [c.kept for c in foveate.changes(model)] == [("qkv", "proj")]
    assert difference(model(x), before) < 1e-5


def test_a_parent_that_reads_the_old_weights_is_refused():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = _Block(layer).eval(), images(32)
    before = model(x)
    with pytest.raises(ValueError, match="as it was"):
        foveate.replace(model, "attention", "multi_head", example=x)
    assert difference(model(x), before) == 0
    foveate.replace(model, "attention", "multi_head", start="handover", example=x)
    with torch.no_grad():
        for parameter in foveate.added(model):
            parameter.add_(0.1)
        assert difference(model(x), before) > 1e-3  # PyTorch's fast path does not pass it by


@pytest.mark.parametrize("build", [vit, pytest.param(convnext, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_is_handed_over_without_a_change(build, mixer):
    model, x = build(), images(32 if build is vit else 64)
    before = model(x)
    what = "attention" if build is vit else "depthwise"
    where = "blocks.0.*" if build is vit else "stages.0.*"
    foveate.replace(model, what, mixer, where=where, start="handover", **FITTING.get(mixer, {}))
    assert difference(model(x), before) < 1e-6
    model.train()
    model(x).square().sum().backward()
    scales = [p for n, p in model.named_parameters() if n.endswith("foveate.scale")]
    assert len(scales) == 1
    assert all(p.grad.abs().max() > 0 for p in scales)


def test_finishing_drops_the_old_side():
    model, x = swin(), images()
    foveate.replace(model, "attention", "neighborhood", start="handover", kernel_size=3)
    assert distance(model) == 1
    for name, parameter in model.named_parameters():
        if name.endswith("foveate.scale"):
            parameter.data.fill_(1)
    before, held = model(x), sum(p.numel() for p in model.parameters())
    foveate.finish(model)
    torch.testing.assert_close(model(x), before)
    assert sum(p.numel() for p in model.parameters()) < held
    assert not any("foveate" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="no handover"):
        foveate.finish(model)


def test_class_tokens_keep_what_the_old_attention_gives_them():
    model, x = vit(depth=1), images()
    before = model.forward_features(x)
    foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    behind = model.forward_features(x)
    assert difference(behind[:, 0], before[:, 0]) < 1e-6
    assert difference(behind[:, 1:], before[:, 1:]) > 1e-3
    assert "prefix tokens keep the old module" in str(foveate.changes(model))


def test_what_is_dropped_and_left_alone_is_said():
    model = swin()
    foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    said = str(foveate.changes(model))
    assert "relative_position_bias_table" in said
    assert "mask=T(16, 16, 16)" in said
    assert "beyond the windows" in said


def test_other_image_sizes_are_looked_at_once():
    model = swin()
    foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    assert model(images((48, 32))).shape == (2, 5)
    with pytest.raises(RuntimeError, match="Call the model itself"):
        model.forward_features(images((64, 32)))
    model(images((64, 32)))
    model.forward_features(images((64, 32)))


def test_attributes_that_a_parent_reads_stay():
    model = vit()
    foveate.replace(model, "attention", "multi_head")
    assert model.blocks[0].attn.num_heads == 2


def test_gates_and_named_modules_are_replaced():
    model = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    foveate.replace(model, "gate", "efficient_channel")
    assert len(foveate.changes(model)) == 9
    mlp = vit()
    foveate.replace(mlp, "blocks.*.mlp", "cbam")
    assert [c.path for c in foveate.changes(mlp)] == ["blocks.0.mlp", "blocks.1.mlp"]
    by_class = resnet()
    foveate.replace(by_class, nn.BatchNorm2d, "cbam", where="layer1*")
    assert {c.was for c in foveate.changes(by_class)} == {"BatchNorm2d"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: foveate.replace(resnet(), "attention", "neighborhood"), "none of this kind"),
        (lambda: foveate.replace(vit(), "attention", "cbam"), "gate and cannot stand"),
        (lambda: foveate.replace(vit(), "atn", "cbam"), "no place matches"),
        (lambda: foveate.replace(vit(), "branch", "cbam"), "where to insert"),
        (lambda: foveate.replace(vit(), "attention", "multi_head", num_heads=3), "blocks.0.attn"),
        (lambda: foveate.replace(vit(), "attention", "multi_head", keep="all"), "keep 'all'"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_kind_that_is_misspelt_and_arguments_that_are_swapped_are_said():
    with pytest.raises(ValueError, match="kinds are attention, gate, conv, depthwise"):
        foveate.replace(vit(), "attentions", "neighborhood")
    with pytest.raises(ValueError, match=r"replace\(model, 'attention', 'neighborhood'\)"):
        foveate.replace(vit(), "neighborhood", "attention")
