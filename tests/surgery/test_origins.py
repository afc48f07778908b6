"""Where elements come from, by the fast forms, is what the operators themselves say."""

from __future__ import annotations

import pytest
import torch

from foveate.surgery import _origins as origins


def companion(shape, uniform=()):
    """Places of an image, which do not vary along the axes ``uniform``."""
    small = [1 if axis in uniform else side for axis, side in enumerate(shape)]
    return torch.arange(torch.Size(small).numel()).double().view(small).expand(shape)


@pytest.mark.parametrize("uniform", [(), (1,), (0, 1), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("pads", [(1, 2), (0, 1, 2, 0), (1, 1, 1, 1, 0, 2)])
def test_padding_is_written_only_where_it_lies(uniform, pads):
    c = companion((2, 3, 4, 5), uniform)
    expected = torch.nn.functional.pad(c, pads, value=origins.PADDING)
    assert torch.equal(origins._padded(c, pads), expected)


@pytest.mark.parametrize("uniform", [((), ()), ((1,), (1,)), ((0, 2), (2,)), ((2,), (0, 1, 2))])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_joining_writes_out_only_what_varies(uniform, dim):
    parts = [companion((2, 3, 4), axes) for axes in uniform]
    assert torch.equal(origins._joined(parts, dim), torch.cat(parts, dim))


def test_no_memory_is_taken_for_axes_that_do_not_vary():
    c = companion((2, 64, 8, 8), (1,))
    assert origins._padded(c, (1, 1, 1, 1)).stride(1) == 0
    assert origins._joined([c, c], 3).stride(1) == 0


def test_cells_of_a_finer_grid_lie_between_those_of_the_coarser():
    coarse = companion((1, 1, 4, 1), (0, 1, 3)) * 8
    fine = origins._resampled(coarse, (8, 2))
    assert fine[0, 0, 1:, 0].tolist() == [2, 6, 10, 14, 18, 22, 26]
    assert fine[0, 0, 0, 0] == 0  # above the first cell, and still in the image
