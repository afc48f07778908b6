"""ACmix on a reduced map: what is its own."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.full.acmix_reduced import ACmixReducedAttention
from foveate.attention.full.spatial_reduction import SpatialReductionAttention


def create(**options) -> ACmixReducedAttention:
    torch.manual_seed(0)
    return ACmixReducedAttention(16, 4, **options).eval()


@torch.no_grad()
def test_without_its_convolution_it_is_the_attention_halved():
    ours, host = create(sr_ratio=2), SpatialReductionAttention(16, 4, 2).eval()
    shared = {k: v for k, v in ours.state_dict().items() if k in host.state_dict()}
    host.load_state_dict(shared)
    ours.rate2.zero_()
    x = torch.randn(2, 16, 6, 9)
    torch.testing.assert_close(ours(x), host(x) / 2)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_a_cell_has_the_keys_of_the_reduced_cell_that_it_went_into(size):
    rows, columns = (max(side // 2, 1) for side in size)
    reduced = torch.arange(rows * columns).view(rows, columns)
    expanded = create(sr_ratio=2)._expand(
        reduced.flatten()[None, :, None], torch.empty(1, 1, *size)
    )
    expected = [
        [reduced[min(i // 2, rows - 1), min(j // 2, columns - 1)] for j in range(size[1])]
        for i in range(size[0])
    ]
    assert torch.equal(expanded[0, ..., 0], torch.tensor(expected))


def test_the_three_shifts_start_as_one_function():
    x = torch.randn(2, 16, 6, 9)
    learned, fixed, tensor = (create(shift=shift) for shift in ("learned", "fixed", "tensor"))
    torch.testing.assert_close(fixed(x), learned(x))
    torch.testing.assert_close(tensor(x), learned(x))
