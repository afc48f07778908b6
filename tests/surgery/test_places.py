from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import SelectiveKernel, SplitAttn
from timm.layers.grn import GlobalResponseNorm
from torch import nn

import foveate
from tests.surgery.models import difference, images, nest, resnet, swin, vit


def kinds(model, example=None):
    found = foveate.places(model, example)
    return {kind: [p.path for p in found.of(kind)] for kind in
            ("attention", "gate", "branch", "stage", "conv", "depthwise")}  # fmt: skip


def test_a_residual_network_ends_its_branches_at_the_last_norm():
    found = kinds(resnet())
    assert found["branch"] == [f"layer{i}.0.bn2" for i in (1, 2, 3, 4)]
    assert found["stage"][-4:] == ["layer1", "layer2", "layer3", "layer4"]
    assert found["attention"] == found["gate"] == []
    assert "layer1.0.conv1" in found["conv"]
    assert "layer2.0.conv1" not in found["conv"]  # strided


def test_a_vision_transformer_shows_its_class_token_and_map():
    attention = foveate.places(vit()).of("attention")
    assert [p.path for p in attention] == ["blocks.0.attn", "blocks.1.attn"]
    first = attention[0]
    assert (first.layout, first.channels, first.size, first.prefix_tokens) == ("BNC", 32, (4, 4), 1)
    assert kinds(vit())["branch"] == [
        "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"
    ]  # fmt: skip


def test_register_tokens_count_as_prefix():
    model = vit(reg_tokens=3)
    assert {p.prefix_tokens for p in foveate.places(model).of("attention")} == {4}


def test_windows_that_were_cut_and_shifted_are_seen():
    first, second, last = foveate.places(swin()).of("attention")
    assert (first.windows, first.size) == (16, (16, 16))
    assert second.arguments == ("mask=T(16, 16, 16)",)
    assert last.size == (8, 8)


def test_tokens_in_blocks_are_known_to_be_out_of_order():
    places = foveate.places(nest()).of("attention")
    assert [p.row_major for p in places] == [False, True]
    assert "not row by row" in str(places)


@pytest.mark.parametrize("layer", [
    lambda: SelectiveKernel(16),
    lambda: SplitAttn(16),
    lambda: GlobalResponseNorm(16, channels_last=False),
])  # fmt: skip
def test_gates_without_a_sigmoid_times_their_input_are_found(layer):
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), layer(), nn.Conv2d(16, 8, 1))
    assert kinds(model, images(16))["gate"] == ["1"]


def test_activations_and_norms_are_no_gates():
    class Swish(nn.Module):
        def forward(self, x):
            return x * x.sigmoid()

    class RmsNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x):
            return x * x.square().mean(1, keepdim=True).rsqrt() * self.weight

    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), Swish(), RmsNorm(), nn.Conv2d(16, 8, 1))
    assert kinds(model, images(16))["gate"] == []


def test_a_gate_of_ours_and_an_attention_of_ours_are_found():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        foveate.create_attention("cbam", 16),
        foveate.create_attention("neighborhood", 16, num_heads=2, kernel_size=3),
    )
    found = kinds(model, images(16))
    assert found["gate"] == ["1"]
    assert found["attention"] == ["2"]


def test_networks_that_concatenate_have_branches_too():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 3, 1, 1)

        def forward(self, x):
            x = self.stem(x)
            return torch.cat([x, self.one(x)], 1)

    assert kinds(Dense(), images(16))["branch"] == ["stem", "one"]


def test_looking_changes_nothing():
    model = resnet().train()
    before = copy.deepcopy(model.state_dict())
    foveate.places(model)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_tables_that_modules_keep_are_not_left_fake():
    model = timm.create_model("levit_128s", num_classes=5).eval()  # caches its biases
    x = images(224, 1)
    before = model(x)
    foveate.places(model)
    assert difference(model(x), before) == 0


def test_a_model_that_asks_for_values_runs_on_real_tensors_and_says_so():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)
            self.inner = nn.Conv2d(8, 8, 3, 1, 1)

        def forward(self, x):
            x = self.conv(x)
            return x + self.inner(x) if float(x.mean()) > -100 else x

    found = foveate.places(Picky(), images(16))
    assert [p.path for p in found.of("branch")] == ["inner"]
    assert "real tensors" in str(found)


def test_a_model_that_cannot_be_run_asks_for_an_example():
    with pytest.raises(ValueError, match="Give an input that it accepts"):
        foveate.places(nn.Linear(3, 4))


def test_a_size_that_was_chosen_for_the_user_is_said():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1))
    assert "does not state its input" in str(foveate.places(model))


def test_where_takes_globs_classes_and_functions():
    found = foveate.places(resnet()).of("branch")
    assert len(found.where("layer[12]*")) == 2
    assert len(found.where(nn.BatchNorm2d)) == 4
    assert len(found.where(lambda place: place.channels > 200)) == 2
    assert len(found.where(["layer1*", lambda place: place.channels == 512])) == 2
    with pytest.raises(TypeError, match="where="):
        found.where(3)


def test_the_table_groups_by_glob():
    rows = foveate.places(vit()).table()
    assert [row["path"] for row in rows if row["kind"] == "attention"] == ["blocks.*.attn"]
    assert rows[0]["n"] == "2"
    assert rows[0]["prefix"] == "1"


class _Partial(nn.Module):
    """ReXNet's block: what the branch starts from is added to some of its channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.head = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.branch(x)
        return self.head(torch.cat([y[:, :8] + x, y[:, 8:]], 1))


class _Interpolated(nn.Module):
    """EfficientViM's block: a step from ``x`` towards ``f(x)``."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.share = nn.Parameter(torch.tensor(0.3))
        self.drop = nn.Identity()

    def forward(self, x):
        x = self.drop(self.stem(x))
        return x + self.drop(self.share.sigmoid() * (self.branch(x) - x))


class _Upsampled(nn.Module):
    """LowFormer's block: attention on a coarse map, whose result is made fine again."""

    def __init__(self, up):
        super().__init__()
        self.stem, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 4, 1)
        self.branch = up

    def forward(self, x):
        x = self.stem(x)
        return x + self.branch(self.coarse(x))


@pytest.mark.parametrize(
    "build",
    [
        _Partial,
        _Interpolated,
        lambda: _Upsampled(nn.Upsample(scale_factor=4, mode="bilinear")),
        lambda: _Upsampled(nn.ConvTranspose2d(8, 8, 4, 4)),
    ],
)
def test_branches_that_are_added_in_another_form_are_found(build):
    model, x = build().eval(), images(32)
    before = model(x)
    (place,) = foveate.places(model, x).of("branch")
    assert (place.path, place.size) == ("branch", (16, 16))
    foveate.insert(model, "cbam", example=x)
    assert difference(model(x), before) == 0
    for parameter in foveate.added(model):
        parameter.data.add_(0.1)
    assert difference(model(x), before) > 1e-5


def test_maps_of_paths_that_are_shifted_against_each_other_are_maps():
    class Factorized(nn.Module):  # NASNet's reduction: the second path is moved by one pixel
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.mixed, self.conv = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)

        def forward(self, x):
            moved = nn.functional.pad(x, (-1, 1, -1, 1))
            paths = [self.one(x[:, :, ::2, ::2]), self.two(moved[:, :, ::2, ::2])]
            return self.conv(self.mixed(torch.cat(paths, 1)))

    (place,) = foveate.places(Factorized(), images(16)).of("conv")
    assert (place.path, place.size) == ("conv", (8, 8))


def test_grouped_convolutions_are_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=2),
                          nn.Conv2d(8, 8, 3, 1, 1, groups=8))  # fmt: skip
    found = kinds(model, images(16))
    assert (found["conv"], found["depthwise"]) == (["1"], ["2"])


def test_a_model_made_for_another_size_is_seen_at_that_size():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=(64, 32))
    assert foveate.places(model).of("attention")[0].size == (4, 2)


def test_the_lateral_connections_of_a_pyramid_are_branches():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.top, self.lateral = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            fine = self.fine(x)
            top = self.top(self.coarse(fine))
            return nn.functional.interpolate(top, scale_factor=2.0) + self.lateral(fine)

    found = foveate.places(Pyramid(), images(32)).of("branch")
    assert [place.path for place in found] == ["lateral"]
