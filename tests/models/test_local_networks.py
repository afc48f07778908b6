"""What is particular to the networks of local attention: where they slide, shift and dilate."""

from __future__ import annotations

import pytest
import timm
import torch

import foveate
from foveate.attention.local.slide import SlideAttention
from foveate.attention.window.window import WindowAttention
from foveate.models.dinat import in_turn

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


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one entry a stage"):
        timm.create_model("nat_mini", depths=(1, 1))
    with pytest.raises(ValueError, match="one entry a stage"):
        timm.create_model("san10_pairwise", layers=(1, 1))
