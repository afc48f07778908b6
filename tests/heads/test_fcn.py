"""The FCN head's options."""

from __future__ import annotations

import pytest
import torch

from foveate.heads import FCNHead


def test_without_convolutions_the_map_is_classified():
    head = FCNHead(6, 3, dim=6, num_convs=0, concat_input=False).eval()
    x = torch.randn(2, 6, 4, 5)
    assert torch.equal(head(x), head.conv_seg(x))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="with num_convs=0 dim must be in_channels, got dim=5"):
        FCNHead(6, 3, dim=5, num_convs=0)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        FCNHead(6, 3, kernel_size=2)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        FCNHead(6, 0)
