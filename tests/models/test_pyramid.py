"""The host is a timm model in full, and only its slot changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.layers import create_feature_extractor
from torch import nn

from foveate.models import CONTROLS, create_slot, list_slots

PICO, TINY = "pyramid_pico", "pyramid_tiny"


def pico(**kwargs):
    torch.manual_seed(0)
    return timm.create_model(PICO, **{"num_classes": 7, **kwargs}).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [PICO, TINY])
def test_timm_knows_the_variants(name, x):
    model = timm.create_model(name, num_classes=5, drop_path_rate=0.1)
    out = model(x)
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    config = timm.get_pretrained_cfg(name)
    assert model.get_submodule(config.first_conv).in_channels == 3
    assert model.get_submodule(config.classifier) is model.get_classifier()


def test_registering_overwrites_no_model_of_timm():
    code = (
        "import timm; before = set(timm.list_models()); modules = set(timm.list_modules())\n"
        "import foveate.models\n"
        "after = set(timm.list_models()); assert before < after\n"
        "assert all(n.startswith('pyramid_') for n in after - before), after - before\n"
        "assert 'pyramid' not in modules"
    )
    run = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=False)
    assert run.returncode == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 47)])
def test_any_input_size(size):
    assert pico()(torch.randn(1, 3, *size)).isfinite().all()


@pytest.mark.parametrize("attention", list_slots())
def test_every_mechanism_stands_in_the_slot_on_maps_smaller_than_its_window(attention):
    torch.manual_seed(0)
    model = timm.create_model(PICO, attention=attention, num_classes=3)
    for size in ((33, 47), (3, 5)):
        out = model(torch.randn(2, 3, *size))
        assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_only_the_slot_changes():
    names = {
        attention: {
            name: parameter.shape
            for name, parameter in pico(attention=attention).named_parameters()
            if ".slot." not in name and ".norm1." not in name
        }
        for attention in ("multi_head", "cbam", *CONTROLS)
    }
    assert names["multi_head"] == names["cbam"] == names["none"] == names["depthwise_conv"]


def test_a_gate_adds_only_itself_to_the_control():
    gate, control = create_slot("cbam", 16, 2), create_slot("depthwise_conv", 16, 2)
    extra = [n for n in gate.state_dict() if n not in control.state_dict()]
    assert extra
    assert all(name.startswith("gate.") for name in extra)


def test_none_leaves_the_slot_out():
    assert create_slot("none", 16, 2) is None
    assert not any("slot" in name for name, _ in pico(attention="none").named_modules() if name)


def test_every_second_block_shifts_windows_where_the_mechanism_does():
    first, second = (create_slot("window", 16, 2, i, {"window_size": 4}) for i in (0, 1))
    assert tuple(first.shift_size) == (0, 0)
    assert tuple(second.shift_size) == (2, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slid", {}, "unknown attention 'slid'"),
        ("additive", {}, "unknown attention 'additive'"),
        ("none", {"kernel_size": 3}, "none has no option 'kernel_size'"),
        ("depthwise_conv", {"kernel": 3}, "did you mean 'kernel_size'"),
        ("depthwise_conv", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ("multi_head", {"num_head": 2}, "did you mean 'num_heads'"),
        ("multi_head", {"num_heads": 5}, "num_heads=5"),
    ],
)
def test_what_cannot_stand_in_the_slot_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_slot(name, 16, 2, options=options)


def test_an_unknown_option_of_the_model_is_refused_as_timm_does():
    with pytest.raises(TypeError, match="no_such_option"):
        pico(no_such_option=1)


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one number a stage"):
        pico(depths=(1, 1))


@pytest.mark.parametrize("channels", [1, 4])
def test_in_chans(channels):
    assert pico(in_chans=channels)(torch.randn(1, channels, 32, 32)).shape == (1, 7)


def test_features_only_gives_the_pyramid(x):
    model = timm.create_model(PICO, features_only=True)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    features = model(x)
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [tuple(f.shape[2:]) for f in features] == [(10, 18), (5, 9), (3, 5), (2, 3)]


def test_features_only_takes_out_indices(x):
    model = timm.create_model(PICO, features_only=True, out_indices=(0, 2))
    assert [f.shape[1] for f in model(x)] == model.feature_info.channels() == [32, 96]
    assert len(model.model.stages) == 3


def test_forward_intermediates(x):
    model = pico()
    last, every = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert len(every) == 4
    torch.testing.assert_close(every[-1], last)
    two = model.forward_intermediates(x, [1, 2], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(two, every[1:3])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_reset_classifier(x):
    model = pico()
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 2, 3)
    model.reset_classifier(9, "avg")
    assert model(x).shape == (2, 9)
    assert model.get_classifier().out_features == model.num_classes == 9


def test_forward_is_features_then_head(x):
    model = pico()
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, 128)


def test_checkpointing_gradients_changes_nothing(x):
    plain, checkpointed = pico(), pico()
    checkpointed.set_grad_checkpointing()
    outs = [model.train()(x) for model in (plain, checkpointed)]
    torch.testing.assert_close(*outs)
    for out in outs:
        out.sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_channels_last_gives_the_same(x):
    model = pico()
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("attention", ["multi_head", "cbam", "none"])
def test_device_and_dtype_reach_every_parameter(attention):
    model = timm.create_model(PICO, attention=attention, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    with torch.device("meta"):
        assert timm.create_model(PICO, features_only=True).feature_info


def test_group_matcher_puts_every_parameter_into_a_layer():
    from timm.models import group_parameters

    model = pico()
    groups = group_parameters(model, model.group_matcher())
    assert sum(map(len, groups.values())) == len(list(model.named_parameters()))


def test_fx_features(x):
    model = pico()
    extractor = create_feature_extractor(model, ["stages.1", "head"])
    torch.testing.assert_close(extractor(x)["head"], model(x))


def test_state_dict_round_trip(x):
    one, other = pico(), timm.create_model(PICO, num_classes=7).eval()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(x), one(x))


def test_a_mechanism_of_the_users_own_stands_in_the_slot(x):
    from foveate.contracts import Mixer
    from foveate.registry import _SPECS, register

    @register("mean_of_map", family="test", title="The mean of the map", paper="none")
    class MeanOfMap(Mixer):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return x.mean((2, 3), keepdim=True).expand_as(x)

    try:
        model = pico(attention="mean_of_map")
        assert model(x).isfinite().all()
        assert sum(isinstance(m, nn.Module) and type(m) is MeanOfMap for m in model.modules()) == 6
    finally:
        del _SPECS["mean_of_map"]
