from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from foveate.attention.adapt import create_attention
from foveate.checks import check_attention
from foveate.contracts import Aligner, Attention, Gate, MapOfTokens, Mixer, TokenMixer
from foveate.registry import describe, list_attention, option_names
from tests.mechanisms import CleanGate, CleanMixer, CleanTokens


@pytest.mark.parametrize(
    ("cls", "role"),
    [(Mixer, "mixer"), (Gate, "gate"), (TokenMixer, "token_mixer"), (Aligner, "aligner")],
)
def test_each_contract_states_its_role(cls, role):
    assert issubclass(cls, Attention)
    assert cls.role == role


@pytest.mark.parametrize("cls", [Mixer, TokenMixer])
def test_a_mixer_without_weights_says_so(cls):
    class Opaque(cls):
        pass

    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="Opaque has no dense weights to show"):
        Opaque().weights(x)
    with pytest.raises(NotImplementedError, match="Opaque has no dense weights to apply"):
        Opaque().apply_weights(x, x)
    with pytest.raises(NotImplementedError, match="Opaque states no closed form"):
        Opaque().multiply_adds(3, 3)


def test_a_gate_multiplies():
    gate, x = CleanGate(4), torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(gate(x), x * gate.gate(x))


def test_a_map_of_tokens_reads_row_by_row():
    tokens = CleanTokens(4)
    mixer, x = MapOfTokens(tokens), torch.randn(2, 4, 3, 5)
    rows = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(mixer(x), tokens(rows).transpose(1, 2).unflatten(2, (3, 5)))
    torch.testing.assert_close(mixer.weights(x), tokens.weights(rows))
    assert mixer.weights(x).shape == (2, 1, 15, 15)
    assert mixer.multiply_adds(3, 5) == tokens.multiply_adds(15)


def test_a_map_of_tokens_keeps_the_contract_of_a_mixer():
    def mixer(dim, **options):
        return create_attention("multi_head", dim, num_heads=2, role="mixer", **options)

    check_attention(mixer, tags=("weights", "self", "unordered"))


@pytest.mark.parametrize("name", list_attention())
def test_printing_a_mechanism_shows_its_options(name):
    heads = {"num_heads": 2} if "num_heads" in option_names(describe(name)) else {}
    module = create_attention(name, 16, **heads)
    shown = module.extra_repr().split(", ")
    assert shown[0] == "dim=16"
    assert ("num_heads=2" in shown) == bool(heads)
    assert repr(copy.deepcopy(module)) == repr(module)
    assert repr(pickle.loads(pickle.dumps(module))) == repr(module)


def test_sizes_are_shown_always_and_switches_where_they_differ():
    module = create_attention("neighborhood", 16, num_heads=2, kernel_size=5)
    assert module.extra_repr() == "dim=16, num_heads=2, kernel_size=5, dilation=1"
    module = create_attention("neighborhood", 16, 2, 5, qkv_bias=False, proj_drop=0.1)
    shown = "dim=16, num_heads=2, kernel_size=5, dilation=1, qkv_bias=False, proj_drop=0.1"
    assert module.extra_repr() == shown
    assert f"NeighborhoodAttention(\n  {shown}\n" in repr(nn.Sequential(module)).replace(
        "    ", "  "
    )


def test_a_mechanism_of_the_users_own_shows_its_options_too():
    class Sharpened(CleanMixer):
        def __init__(self, dim: int, num_heads: int = 2, *, power: float = 2.0) -> None:
            super().__init__(dim, num_heads)

    assert Sharpened(8).extra_repr() == "dim=8, num_heads=2"
    assert Sharpened(8, power=3.0).extra_repr() == "dim=8, num_heads=2, power=3.0"
    with pytest.raises(TypeError, match="powers"):
        Sharpened(8, powers=3.0)


def test_what_a_map_of_tokens_holds_is_shown_below_it():
    mixer = create_attention("multi_head", 16, num_heads=2, role="mixer")
    assert mixer.extra_repr() == ""
    assert "(token_mixer): MultiHeadAttention(\n    dim=16, num_heads=2" in repr(mixer)
