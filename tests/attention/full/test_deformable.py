"""Deformable attention: what is its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.attention.full.deformable import DeformableAttention


def test_points_stay_on_the_map_or_within_reach() -> None:
    x = torch.randn(2, 16, 9, 13)
    free = DeformableAttention(16, 4, 2, stride=3, offset_range=-1).eval()
    nn.init.normal_(free.conv_offset[3].weight, std=10)
    assert free.points(x).shape == (2, 2, 3, 5, 2)
    assert free.points(x).abs().max() <= 1
    bound = DeformableAttention(16, 4, 2, stride=3, offset_range=1).eval()
    nn.init.zeros_(bound.conv_offset[3].weight)
    still = bound.points(torch.zeros_like(x))
    nn.init.normal_(bound.conv_offset[3].weight, std=10)
    reach = torch.tensor([2 * 1 / (3 - 1), 2 * 1 / (5 - 1)])
    assert ((bound.points(x) - still).abs() <= reach + 1e-5).all()


def test_the_position_table_is_interpolated_to_other_maps() -> None:
    module = DeformableAttention(8, 2, stride=2, table_size=(4, 6)).eval()
    nn.init.normal_(module.rpe_table)
    for size in [(4, 6), (8, 12), (5, 3)]:
        x = torch.randn(1, 8, *size)
        points = module.points(x)
        bias = module._bias(points, x)
        assert bias.shape == (1, 2, size[0] * size[1], points.shape[2] * points.shape[3])
        assert bias.abs().max() <= module.rpe_table.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups=3 must divide num_heads=4"),
        ({"kernel_size": 4}, "kernel_size must be odd or equal to stride=2"),
        ({"position": "tabel"}, "unknown position 'tabel'; did you mean 'table'"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformableAttention(16, 4, **options)


def test_there_are_no_points_without_offsets() -> None:
    with pytest.raises(ValueError, match="offsets=False"):
        DeformableAttention(16, 4, offsets=False).points(torch.randn(1, 16, 4, 4))
