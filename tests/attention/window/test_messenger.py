"""Messengers: one more key of every window, exchanged between windows."""

from __future__ import annotations

import pytest
import torch

from foveate.analysis.flops import count_flops
from foveate.attention.window.messenger import MessengerAttention, shuffle_messengers

SIZES = [(6, 8), (7, 5), (9, 4), (2, 3), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_messengers_are_one_more_key_of_every_window(size):
    torch.manual_seed(0)
    m, x = MessengerAttention(16, 2, 3).eval(), torch.randn(2, 16, *size)
    assert m(x).shape == x.shape
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)
    changed = x.clone()
    changed[:, :, :3, :3] += 1
    difference = (m(changed) - m(x)).abs().amax((0, 1))
    assert difference[:3, :3].all()
    assert not difference[3:].any()
    assert not difference[:, 3:].any()


def test_messengers_swap_slices_inside_their_region():
    messengers = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 4)  # each says whose it is
    shuffled = shuffle_messengers(messengers, (2, 4), 2)
    assert shuffled[0, 0].tolist() == [0, 1, 4, 5]  # the windows of the region, row by row
    assert shuffled[0, 7].tolist() == [2, 3, 6, 7]
    with pytest.raises(ValueError, match="must divide"):
        shuffle_messengers(messengers[:, :, :3], (2, 4), 2)


def test_messengers_keep_the_slices_for_windows_that_are_not_there():
    messengers = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 4)
    shuffled = shuffle_messengers(messengers, (2, 3), 2)
    assert shuffled[0, 0].tolist() == [0, 1, 3, 4]
    assert shuffled[0, 2].tolist() == [2, 2, 5, 2]  # right of it there is no window
    assert shuffled[0, 5].tolist() == [2, 5, 5, 5]


def test_messengers_of_a_network_start_there():
    attention = MessengerAttention(16, 2, 3, own_messenger=False)
    assert "messenger" not in dict(attention.named_parameters())
    with pytest.raises(ValueError, match="call exchange"):
        attention(torch.randn(1, 16, 6, 6))
