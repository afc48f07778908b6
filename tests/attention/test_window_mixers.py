"""The mixers that cut the map into parts: who sees whom, padding, weights and cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.window.axial import AxialAttention
from foveate.attention.window.cross_shaped import CrossShapedAttention
from foveate.attention.window.locally_grouped import LocallyGroupedAttention
from foveate.attention.window.messenger import MessengerAttention, shuffle_messengers
from foveate.attention.window.shuffle import ShuffleAttention

SIZES = [(6, 8), (7, 5), (9, 4), (2, 3), (1, 1)]
MIXERS = {
    "cross_shaped": lambda: CrossShapedAttention(16, 2, 3),
    "locally_grouped": lambda: LocallyGroupedAttention(16, 2, 3),
    "shuffle": lambda: ShuffleAttention(16, 2, 3),
}


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = MIXERS[name]().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def _cells(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every position, as columns to compare with their transposes."""
    place = torch.arange(height * width)
    return (place // width)[:, None], (place % width)[:, None]


def _same(a: torch.Tensor) -> torch.Tensor:
    return a == a.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MIXERS)
def test_weights_reproduce_the_output_and_the_cost_is_counted(name, size):
    m, x = _build(name), torch.randn(2, 16, *size)
    weights = m.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    torch.testing.assert_close(m.apply_weights(x, weights), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MIXERS)
def test_padding_adds_nothing_to_a_part_that_overhangs_the_map(name, size):
    """Who sees whom follows from the parts alone, at any size."""
    row, column = _cells(*size)
    spread = [-(-length // min(3, length)) for length in size]  # groups along each axis
    expected = {
        "cross_shaped": [_same(column // 3), _same(row // 3)],
        "locally_grouped": [_same(row // 3) & _same(column // 3)] * 2,
        "shuffle": [_same(row % spread[0]) & _same(column % spread[1])] * 2,
    }[name]
    seen = _build(name).weights(torch.randn(1, 16, *size))[0] > 0
    assert torch.equal(seen, torch.stack(expected))


def test_cross_shaped_positions_stay_inside_the_stripe():
    m, x = _build("cross_shaped"), torch.randn(1, 16, 6, 6)
    v = m._project(x)[2].clone()
    local = m._local(v)
    v[:, :, 3:] += 1  # the other upright stripe
    changed = (m._local(v) - local)[0, :, :3].abs().amax((0, 1))
    assert not changed[:8].any()
    assert changed[8:].all()


def test_cross_shaped_loads_the_single_branch_of_the_last_stage():
    m, x = _build("cross_shaped"), torch.randn(1, 16, 3, 2)
    state = {k: v for k, v in m.state_dict().items() if not k.startswith("lepe")}
    whole = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
    state |= {f"attns.0.get_v.{key}": value for key, value in whole.state_dict().items()}
    foveate.load_published(m, state)
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in m._project(x))
    y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    y = y.unflatten(1, (3, 2)) + whole(
        v.transpose(1, 2).flatten(-2).mT.unflatten(2, (3, 2))
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(m(x), m.proj(y).permute(0, 3, 1, 2))


def test_cross_shaped_refuses_an_odd_number_of_heads():
    with pytest.raises(ValueError, match="must be even"):
        CrossShapedAttention(12, 3)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("size", [(6, 5), (1, 1), (1, 4)])
def test_axial_attends_to_columns_and_rows(size, together):
    torch.manual_seed(0)
    m, x = AxialAttention(16, 2, sum_axial_out=together).eval(), torch.randn(2, 16, *size)

    def along(part, x):  # (B, H, W, C): the second axis from behind is a sequence
        q, k, v = part.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
        q, k, v = (t.transpose(-3, -2) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return part.proj(y.transpose(-3, -2).flatten(-2))

    y = x.permute(0, 2, 3, 1)
    column = along(m.column, y.transpose(1, 2)).transpose(1, 2)
    expected = column + along(m.row, y) if together else along(m.row, column)
    torch.testing.assert_close(m(x), expected.permute(0, 3, 1, 2))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(*size)


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
