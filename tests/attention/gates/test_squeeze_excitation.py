"""The squeezes and excitations of the family, each against its definition written out."""

from __future__ import annotations

import pytest
import torch
from timm.layers import SEModule

import foveate
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation

DIM = 8


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, DIM, 3, 5)


def test_a_convolution_over_the_mean_is_efficient_channel_attention(x) -> None:
    gate, published = SqueezeExcitation(DIM, excitation="conv"), EfficientChannelAttention(DIM)
    published.conv.load_state_dict(gate.excite.conv.state_dict())
    torch.testing.assert_close(gate(x), published(x))


@pytest.mark.parametrize("excitation", ["linear", "conv", "attention"])
@pytest.mark.parametrize("pool", ["avg", "max", "project"])
def test_one_axis_alone_is_each_of_its_lines_as_a_map(x, pool: str, excitation: str) -> None:
    """A gate over the height sees each column as if nothing else were there."""
    options = {"pool": pool, "excitation": excitation, "reduction": 2}
    whole = SqueezeExcitation(DIM, **options)
    columns = SqueezeExcitation(DIM, over="height", **options)
    rows = SqueezeExcitation(DIM, over="width", **options)
    for gate in (columns, rows):
        gate.load_state_dict(whole.state_dict())
    alone = torch.cat([whole(x[..., i : i + 1]) for i in range(5)], 3)
    torch.testing.assert_close(columns(x), alone)
    alone = torch.cat([whole(x[:, :, i : i + 1]) for i in range(3)], 2)
    torch.testing.assert_close(rows(x), alone)


def test_a_projection_weighs_positions(x) -> None:
    gate = SqueezeExcitation(DIM, 2, pool="project")
    scores = torch.einsum("c,bchw->bhw", gate.project.weight.flatten(), x).flatten(1)
    z = (x.flatten(2) * scores.softmax(1)[:, None]).sum(2)
    torch.testing.assert_close(gate.gate(x).flatten(1), gate.excite(z).sigmoid())


def test_attention_between_channels(x) -> None:
    gate = SqueezeExcitation(DIM, excitation="attention", kernel_size=3)
    z = x.mean((2, 3))

    def convolve(part: str) -> torch.Tensor:
        left, centre, right = getattr(gate.excite, part).conv.weight.flatten()
        before, after = torch.zeros(2, 1), torch.zeros(2, 1)
        before, after = torch.cat([before, z[:, :-1]], 1), torch.cat([z[:, 1:], after], 1)
        return left * before + centre * z + right * after

    q, k = convolve("q").sigmoid(), convolve("k").sigmoid()
    weights = torch.einsum("bi,bj->bij", q, k).softmax(2)
    expected = torch.einsum("bij,bj->bi", weights, convolve("v")).sigmoid()
    torch.testing.assert_close(gate.gate(x).flatten(1), expected)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (SEModule(40), SqueezeExcitation(40, divisor=8)),
        (SEModule(96, rd_ratio=0.25), SqueezeExcitation(96, 4, divisor=8)),
    ],
    ids=["se", "se-quarter"],
)
def test_equals_timm(theirs: torch.nn.Module, ours: SqueezeExcitation) -> None:
    x = torch.randn(2, ours.dim, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["sigmoid", "hard_sigmoid", "tanh"])
def test_the_gate_layer_is_timms(x, name: str) -> None:
    theirs = SEModule(DIM, rd_channels=8, gate_layer=name).eval()
    ours = SqueezeExcitation(DIM, 1, divisor=8, gate_layer=name).eval()
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


def test_an_unknown_gate_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="softplus"):
        SqueezeExcitation(DIM, gate_layer="softplus")
