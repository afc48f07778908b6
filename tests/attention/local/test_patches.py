"""What SAN's and ACmix's attentions over patches share, and their options."""

from __future__ import annotations

import pytest
import torch

from foveate.analysis.flops import count_flops
from foveate.attention.local._patches import coordinates, summed
from foveate.attention.local.acmix_patchwise import ACmixPatchwiseAttention
from foveate.attention.local.san_pairwise import PairwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention


def test_channels_that_share_a_weight_lie_apart() -> None:
    values, weights = torch.randn(1, 6, 4, 5), torch.zeros(1, 4, 5, 9, 2)
    weights[..., 4, 1] = 1  # the centre, for odd channels
    kept = torch.tensor([0.0, 1, 0, 1, 0, 1])[:, None, None]
    torch.testing.assert_close(summed(values, weights, 3, 1, like=values), values * kept)


def test_coordinates_run_over_both_axes() -> None:
    where = coordinates(torch.zeros(1, 1, 3, 5))
    torch.testing.assert_close(where[0, 2], torch.linspace(-1, 1, 5))
    torch.testing.assert_close(where[1, :, 1], torch.linspace(-1, 1, 3))


SAN = [PairwiseAttention, PatchwiseAttention, ACmixPatchwiseAttention]


@pytest.mark.parametrize("cls", SAN)
def test_other_channels_may_come_out(cls: type) -> None:
    attention, x = cls(32, 3, dim_out=16, rel_dim=4, share=4).eval(), torch.randn(1, 32, 5, 6)
    assert attention(x).shape == (1, 16, 5, 6)
    assert attention.multiply_adds(5, 6) == count_flops(attention, x) // 2


@pytest.mark.parametrize("cls", SAN)
def test_wrong_options_are_refused(cls: type) -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        cls(16, 4)
    with pytest.raises(ValueError, match="share=5 must divide dim=16"):
        cls(16, share=5)
    with pytest.raises(ValueError, match="rel_dim"):
        cls(16, rel_dim=0)
