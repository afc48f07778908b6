"""ACmix over SAN's patchwise attention: what is its own."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.local.acmix_patchwise import ACmixPatchwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention


@torch.no_grad()
def test_acmix_without_its_convolution_is_half_of_patchwise_attention() -> None:
    acmix, attention = ACmixPatchwiseAttention(16).eval(), PatchwiseAttention(16).eval()
    attention.load_state_dict(acmix.state_dict(), strict=False)
    acmix.rate2.zero_()
    x = torch.randn(1, 16, 8, 9)
    torch.testing.assert_close(acmix(x), attention(x) / 2)


def test_maps_of_the_relation_must_make_the_output() -> None:
    with pytest.raises(ValueError, match="must divide those that come out, 16, got rel_dim=5"):
        ACmixPatchwiseAttention(16, rel_dim=5)
