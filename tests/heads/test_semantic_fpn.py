"""Semantic FPN against its equation, written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.heads import FPNHead, SemanticFPN


def test_levels_are_doubled_as_often_as_their_strides_say_and_added():
    torch.manual_seed(0)
    head = FPNHead((4, 4, 4), 3, strides=(8, 8, 32), dim=6).eval()
    assert [sum(hasattr(m, "conv") for m in scale) for scale in head.scale_heads] == [1, 1, 2]
    maps = [torch.randn(2, 4, 8, 12), torch.randn(2, 4, 8, 12), torch.randn(2, 4, 2, 3)]
    expected = head.scale_heads[0][0](maps[0]) + head.scale_heads[1][0](maps[1])
    x = maps[2]
    for convolution in (head.scale_heads[2][0], head.scale_heads[2][2]):
        x = F.interpolate(convolution(x), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(head(maps), head.conv_seg(expected + x))


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="one for each map"):
        SemanticFPN((8, 16), 3)
    with pytest.raises(ValueError, match="expected 4 maps"):
        SemanticFPN((8, 8, 8, 8), 3)([torch.zeros(1, 8, 4, 4)])
