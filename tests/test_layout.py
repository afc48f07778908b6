"""Partitions and their inverses, as properties of any size."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import layout

SMALL = st.integers(1, 4)
PAIR = st.tuples(SMALL, SMALL)


def _cells(batch: int, height: int, width: int) -> torch.Tensor:
    """A map that numbers its cells."""
    numbers = torch.arange(batch * height * width * 2, dtype=torch.float32)
    return numbers.view(batch, height, width, 2)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(0, 2), window=PAIR, count=PAIR)
def test_windows_hold_neighbours_and_merge_back(batch, window, count):
    size = (window[0] * count[0], window[1] * count[1])
    x = _cells(batch, *size)
    windows = layout.window_partition(x, window)
    assert windows.shape == (batch, count[0] * count[1], window[0] * window[1], 2)
    assert torch.equal(layout.window_merge(windows, window, size), x)
    if batch:
        first = x[0, : window[0], : window[1]].reshape(-1, 2)
        assert torch.equal(windows[0, 0], first)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(0, 2), grid=PAIR, count=PAIR)
def test_grids_hold_evenly_spread_cells_and_merge_back(batch, grid, count):
    size = (grid[0] * count[0], grid[1] * count[1])
    x = _cells(batch, *size)
    groups = layout.grid_partition(x, grid)
    assert groups.shape == (batch, count[0] * count[1], grid[0] * grid[1], 2)
    assert torch.equal(layout.grid_merge(groups, grid, size), x)
    if batch:
        for i in range(count[0]):
            for j in range(count[1]):
                spread = x[0, i :: count[0], j :: count[1]].reshape(-1, 2)
                assert torch.equal(groups[0, i * count[1] + j], spread)


@settings(max_examples=50, deadline=None)
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), multiple=PAIR)
def test_padding_is_zero_below_and_right_and_cropped_again(size, multiple):
    x = _cells(1, *size) + 1
    padded = layout.pad_to_multiple(x, multiple)
    assert all(padded.shape[i + 1] % multiple[i] == 0 for i in (0, 1))
    assert all(0 <= padded.shape[i + 1] - size[i] < multiple[i] for i in (0, 1))
    assert torch.equal(layout.crop(padded, size), x)
    assert padded.count_nonzero() == x.numel()


@settings(max_examples=50, deadline=None)
@given(window=PAIR)
def test_relative_index_is_the_offset(window):
    index = layout.relative_index(window)
    cells = [(i, j) for i in range(window[0]) for j in range(window[1])]
    for p, (pi, pj) in enumerate(cells):
        for r, (ri, rj) in enumerate(cells):
            row, column = divmod(index[p, r].item(), 2 * window[1] - 1)
            assert (row - window[0] + 1, column - window[1] + 1) == (pi - ri, pj - rj)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(0, 2), height=SMALL, width=SMALL, last=st.booleans())
def test_maps_and_tokens_convert_back_in_the_same_memory_format(batch, height, width, last):
    x = _cells(batch, height, width).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    tokens = layout.map_to_tokens(x)
    assert tokens.shape == (batch, height * width, 2)
    back = layout.tokens_to_map(tokens, height, width, like=x)
    assert torch.equal(back, x)
    assert back.is_contiguous(memory_format=layout.memory_format(x))


def test_one_hot_positions_say_where_they_are():
    codes = layout.one_hot_positions(torch.zeros(1), 3, 2)
    assert codes.shape == (1, 3, 2, 6)
    assert codes[0, 2, 1].argmax() == 5
    assert (codes.sum(-1) == 1).all()
