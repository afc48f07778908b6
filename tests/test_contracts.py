from __future__ import annotations

import pytest
import torch

from foveate.checks import check_attention
from foveate.contracts import Aligner, Attention, Gate, MapOfTokens, Mixer, TokenMixer
from foveate.registry import create_attention
from tests.mechanisms import CleanGate, CleanTokens


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
