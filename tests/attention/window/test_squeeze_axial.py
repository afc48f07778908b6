"""Squeezed axial attention (SeaFormer): axes change places with the map, and reach every cell."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.window.squeeze_axial import SqueezeAxialAttention


def _settled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_squeezed_axes_change_places_with_the_map() -> None:
    module = _settled(SqueezeAxialAttention(16, 2))
    swapped = _settled(SqueezeAxialAttention(16, 2))
    state = module.state_dict()
    axes = {"row": "column", "column": "row"}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        new = value.mT if key.startswith("dwconv.conv") else value
        swapped.state_dict()[f"{axes.get(first, first)}.{rest}"].copy_(new)
    x = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(swapped(x.mT), module(x).mT)


def test_a_squeezed_row_reaches_every_cell() -> None:
    module = _settled(SqueezeAxialAttention(16, 2))
    x = torch.randn(1, 16, 6, 7, requires_grad=True)
    (seen,) = torch.autograd.grad(module(x)[0, :, 1, 1].sum(), x)
    assert (seen[0].abs().sum(0) > 0).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"attn_ratio=0\.1"):
        SqueezeAxialAttention(16, 2, attn_ratio=0.1)
    with pytest.raises(ValueError, match="positions"):
        SqueezeAxialAttention(16, 2, positions=0)
