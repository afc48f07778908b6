"""What is particular to the networks of local attention: where they slide, shift and dilate."""

from __future__ import annotations

import pytest
import timm
import torch

import foveate
from foveate.attention.local.slide import SlideAttention
from foveate.attention.window.window import WindowAttention
from foveate.contracts import Mixer
from foveate.models.dinat import in_turn
from tests.models.small import SMALL

TINY = {"depths": (1, 1, 2, 2), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}


def attentions(name: str, **kwargs):
    model = timm.create_model(name, **{**TINY, **kwargs})
    return [[block.attention for block in stage.blocks] for stage in model.stages]


def test_slide_swin_slides_first_and_then_sees_the_whole_map():
    first, second, third, fourth = attentions("slide_swin_tiny")
    assert all(isinstance(attention, SlideAttention) for attention in first + second)
    for stage, side in ((third, 14), (fourth, 7)):
        assert all(isinstance(attention, WindowAttention) for attention in stage)
        assert {a.window_size for a in stage} == {(side, side)}
        assert {a.shift_size for a in stage} == {(0, 0)}


def test_slide_swin_with_smaller_windows_shifts_them_in_turn():
    third = attentions("slide_swin_tiny", window_size=4)[2]
    assert [attention.shift_size for attention in third] == [(0, 0), (2, 2)]


def test_windows_follow_the_image_that_they_are_laid_out_for():
    for name in ("slide_swin_tiny", "acmix_swin_tiny"):
        fourth = attentions(name, img_size=(64, 160))[3]
        assert {attention.window_size for attention in fourth} == {(2, 2)}


@torch.no_grad()
@pytest.mark.parametrize("name", ["slide_swin_tiny", "acmix_swin_tiny", "slide_nat_mini"])
def test_fused_networks_give_the_same(name: str):
    torch.manual_seed(0)
    model = timm.create_model(name, **TINY).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = model(x)
    torch.testing.assert_close(foveate.fuse(model)(x), expected, rtol=1e-4, atol=1e-5)


def test_slide_nat_slides_in_two_stages():
    kinds = [{type(a) is SlideAttention for a in stage} for stage in attentions("slide_nat_mini")]
    assert kinds == [{True}, {True}, {False}, {False}]


def test_dinat_dilates_every_second_block():
    stages = attentions("dinat_tiny", depths=(3, 4, 2, 1))
    assert [[a.dilation for a in stage] for stage in stages] == [
        [1, 8, 1],
        [1, 4, 1, 4],
        [1, 2],
        [1],
    ]
    assert in_turn([[2, 3], 5], (2, 3)) == [[2, 3], [1, 5, 1]]
    with pytest.raises(ValueError, match="dilations must be a number, or one for each block"):
        in_turn([[1, 2, 1]], (2,))


@pytest.mark.parametrize("name", ["acmix_resnet26", "sasa_resnet26"])
def test_resnets_halve_odd_maps_upwards(name: str):
    small = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "num_heads": 2}
    model = timm.create_model(name, features_only=True, **small).eval()
    sizes = [tuple(feature.shape[2:]) for feature in model(torch.randn(1, 3, 69, 37))]
    assert sizes == [(35, 19), (18, 10), (9, 5), (5, 3), (3, 2)]


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        *("cswin_tiny", "pvt_tiny", "nat_small", "dinat_mini", "dinat_s_tiny", "slide_nat_mini"),
        *("slide_swin_tiny", "slide_pvt_tiny", "slide_pvt_v2_b0", "slide_cswin_tiny"),
    ],
)
def test_qk_scale_is_that_of_every_attention(name: str):
    """It is as if queries came larger from their projection."""
    sizes = SMALL.get(name, TINY)
    torch.manual_seed(0)
    given = timm.create_model(name, qk_scale=0.4, **sizes).eval()
    for parameter in given.parameters():  # layer scales of 1e-5 hide attention
        parameter.add_(0.1 * torch.rand_like(parameter))
    plain = timm.create_model(name, **sizes).eval()
    plain.load_state_dict(given.state_dict())
    x = torch.randn(1, 3, 64, 96)
    assert not torch.allclose(plain(x), given(x), rtol=1e-4, atol=1e-6)
    for module in plain.modules():
        if isinstance(module, Mixer):
            layer, inner = getattr(module, "q", None) or module.qkv, module.proj.in_features
            for parameter in layer.parameters():
                parameter[:inner] *= 0.4 / module.scale
    torch.testing.assert_close(plain(x), given(x), rtol=1e-4, atol=1e-5)


def test_an_attention_that_has_no_scale_refuses_it():
    with pytest.raises(ValueError, match="acmix_reduced has no option 'qk_scale'"):
        timm.create_model("acmix_pvt_tiny", qk_scale=0.4)


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one entry a stage"):
        timm.create_model("nat_mini", depths=(1, 1))
    with pytest.raises(ValueError, match="one entry a stage"):
        timm.create_model("san10_pairwise", layers=(1, 1))
