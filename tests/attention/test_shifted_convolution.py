"""The convolution as shifted maps that ACmix's mechanisms share."""

from __future__ import annotations

import torch

from foveate.attention._shifted_convolution import ShiftedConvolution


def test_shifted_pointwise_maps_are_a_convolution() -> None:
    path = ShiftedConvolution(1, 1, 3, 1, "fixed", bias=False)
    maps = torch.randn(2, 5, 6, 3, 1)
    kernel = path.fc.weight.T.reshape(1, 3, 3, 3)
    expected = torch.conv2d(maps[..., 0].permute(0, 3, 1, 2), kernel, padding=1)
    torch.testing.assert_close(path(maps)[..., 0], expected[:, 0])
