"""The host is a timm model in full, and only the place of its attention changes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from foveate.models import CONTROLS, create_for_place, list_for_place

PICO, TINY = "pyramid_pico", "pyramid_tiny"


def pico(**kwargs):
    torch.manual_seed(0)
    return timm.create_model(PICO, **{"num_classes": 7, **kwargs}).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 47)])
def test_any_input_size(size):
    assert pico()(torch.randn(1, 3, *size)).isfinite().all()


@pytest.mark.parametrize("attention", list_for_place())
def test_every_mechanism_stands_in_its_place_on_maps_smaller_than_its_window(attention):
    torch.manual_seed(0)
    model = timm.create_model(PICO, attention=attention, num_classes=3)
    for size in ((33, 47), (3, 5)):
        out = model(torch.randn(2, 3, *size))
        assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_only_the_place_of_attention_changes():
    names = {
        attention: {
            name: parameter.shape
            for name, parameter in pico(attention=attention).named_parameters()
            if not any(word in name for word in (".attention.", ".norm1.", ".scale"))
        }
        for attention in ("multi_head", "cbam", *CONTROLS)
    }
    assert names["multi_head"] == names["cbam"] == names["none"] == names["depthwise_conv"]


def test_a_gate_adds_only_itself_to_the_control():
    gate, control = create_for_place("cbam", 16, 2), create_for_place("depthwise_conv", 16, 2)
    extra = [n for n in gate.state_dict() if n not in control.state_dict()]
    assert extra
    assert all(name.startswith("gate.") for name in extra)


def test_none_leaves_the_branch_out():
    assert create_for_place("none", 16, 2) is None
    assert not any(
        "attention" in name for name, _ in pico(attention="none").named_modules() if name
    )


def test_every_second_block_shifts_windows_where_the_mechanism_does():
    first, second = (create_for_place("window", 16, 2, i, {"window_size": 4}) for i in (0, 1))
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
def test_what_cannot_stand_in_the_place_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_for_place(name, 16, 2, options=options)


def test_at_the_start_every_pyramid_is_the_control_without_attention(x):
    none = pico(attention="none")(x)
    for attention in ("slide", "multi_head", "cbam", "depthwise_conv"):
        assert torch.equal(pico(attention=attention)(x), none), attention
        assert not torch.equal(pico(attention=attention, start="plain")(x), none), attention


@pytest.mark.parametrize("attention", ["multi_head", "cbam", "depthwise_conv"])
def test_the_scale_of_the_branch_learns_first_and_then_what_it_scales(attention, x):
    model = pico(attention=attention).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inside = [p for n, p in model.named_parameters() if ".attention." in n and p.ndim > 1]
    before = [p.detach().clone() for p in inside]
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    scales = [p for n, p in model.named_parameters() if n.endswith(".scale")]
    assert len(scales) == 6
    assert all((scale != 0).any() for scale in scales)
    assert any(not torch.equal(p, q) for p, q in zip(inside, before, strict=True))


def test_the_scale_does_not_decay():
    from timm.optim import param_groups_weight_decay

    model = pico()
    none = {id(p) for p in param_groups_weight_decay(model, 0.05)[0]["params"]}
    assert all(id(p) in none for n, p in model.named_parameters() if n.endswith(".scale"))


def test_a_plain_start_is_what_checkpoints_of_the_first_release_hold(x):
    old = pico(attention="cbam", start="plain")
    model = pico(attention="cbam")
    model.load_state_dict(old.state_dict())
    torch.testing.assert_close(model(x), old(x))


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="unknown start 'identiti'; did you mean 'identity'"):
        pico(start="identiti")


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one number a stage"):
        pico(depths=(1, 1))


@pytest.mark.parametrize("attention", ["multi_head", "cbam", "none"])
def test_device_and_dtype_reach_every_parameter(attention):
    model = timm.create_model(PICO, attention=attention, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    with torch.device("meta"):
        assert timm.create_model(PICO, features_only=True).feature_info


def test_a_mechanism_of_the_users_own_stands_in_the_place(x):
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
