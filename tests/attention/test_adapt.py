"""A mechanism takes what its place offers and it has an option for; the rest is stated."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from foveate.attention.adapt import Place, adapt, create_attention, options_of
from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.contracts import MapOfTokens
from foveate.registry import list_attention
from tests.mechanisms import CleanMixer, CleanTokens


def test_a_mixer_takes_the_heads_of_its_place():
    made = adapt("neighborhood", Place(16, num_heads=4), {"kernel_size": 5})
    assert isinstance(made.module, NeighborhoodAttention)
    assert (made.module.num_heads, made.module.kernel_size) == (4, 5)
    assert made.role == "mixer"
    assert made.options == {"num_heads": 4, "kernel_size": 5}
    assert made.left_out == {}


def test_what_is_asked_for_counts_before_what_the_place_offers():
    made = adapt("neighborhood", Place(16, num_heads=4), {"num_heads": 2}, {"kernel_size": 3})
    assert (made.module.num_heads, made.module.kernel_size) == (2, 3)
    made = adapt("neighborhood", Place(16), {"kernel_size": 5}, {"kernel_size": 3})
    assert made.module.kernel_size == 5


def test_what_a_mechanism_has_no_option_for_is_left_out_and_stated():
    made = adapt("cbam", Place(16, num_heads=4, size=(7, 7)), suggested={"qkv_bias": False})
    assert made.role == "gate"
    assert made.left_out == {"num_heads": 4, "size": (7, 7), "qkv_bias": False}


def test_a_mechanism_made_for_one_size_takes_that_of_its_place():
    made = adapt("relation_aware", Place(16, size=(6, 5)))
    assert made.options["size"] == (6, 5)
    assert made.left_out == {}


@pytest.mark.parametrize(
    ("options", "shift"), [({}, (3, 3)), ({"window_size": (4, 2)}, (2, 1)), ({"shift_size": 0}, 0)]
)
def test_windows_are_shifted_by_half_where_the_place_says_so(options, shift):
    assert adapt("window", Place(16), options).options.get("shift_size", 0) == options.get(
        "shift_size", 0
    )
    assert adapt("window", Place(16, shifted=True), options).options["shift_size"] == shift
    assert "shift_size" not in adapt("multi_head", Place(16, shifted=True)).options


@pytest.mark.parametrize("name", list_attention(role="token_mixer"))
def test_a_token_mixer_stands_where_a_mixer_may(name):
    made = adapt(name, Place(16, num_heads=2, roles=("mixer", "gate")))
    assert isinstance(made.module, MapOfTokens)
    assert made.role == "mixer"
    assert made.module.eval()(torch.randn(1, 16, 3, 4)).shape == (1, 16, 3, 4)
    assert adapt(name, Place(16, num_heads=2, roles=("token_mixer",))).role == "token_mixer"
    assert adapt(name, Place(16, num_heads=2)).role == "token_mixer"


@pytest.mark.parametrize(
    ("mechanism", "roles", "words"),
    [
        ("cbam", ("mixer",), "'cbam' is a gate and cannot stand as a mixer"),
        ("neighborhood", ("gate",), "'neighborhood' is a mixer and cannot stand as a gate"),
        ("additive", ("mixer", "gate"), "'additive' is an aligner and cannot stand as a mixer or"),
        (CleanMixer, ("gate",), "'CleanMixer' is a mixer and cannot"),
        (lambda dim: CleanMixer(dim), ("gate",), "is a mixer and cannot stand as a gate"),
    ],
)
def test_a_role_that_does_not_fit_is_refused(mechanism, roles, words):
    with pytest.raises(ValueError, match=words):
        adapt(mechanism, Place(16, roles=roles))


def test_classes_and_functions_are_adapted_like_names():
    place = Place(16, num_heads=4, roles=("mixer",))
    assert adapt(NeighborhoodAttention, place).options == {"num_heads": 4}
    assert isinstance(adapt(CleanTokens, place).module, MapOfTokens)
    assert adapt(partial(create_attention, "multi_head"), place).role == "mixer"
    made = adapt(lambda dim: nn.Conv2d(dim, dim, 3, padding=1), place)
    assert isinstance(made.module, nn.Conv2d)
    assert (made.role, made.left_out) == (None, {"num_heads": 4})


def test_options_go_on_to_a_function_that_takes_any():
    made = adapt(lambda dim, **options: CleanMixer(dim, **options), Place(8), {"num_heads": 4})
    assert made.module.num_heads == 4


@pytest.mark.parametrize(
    ("mechanism", "options", "error", "words"),
    [
        ("slid", {}, ValueError, "did you mean 'slide'"),
        ("multi_head", {"heads": 2}, ValueError, "multi_head has no option 'heads'; did you mean"),
        (CleanMixer, {"heads": 2}, ValueError, "CleanMixer has no option 'heads'"),
        ("multi_head", {"num_heads": 5}, ValueError, "num_heads=5"),
        (3, {}, TypeError, "got int"),
        (lambda dim: "no module", {}, TypeError, "gives str, not a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_is_refused(mechanism, options, error, words):
    with pytest.raises(error, match=words):
        adapt(mechanism, Place(16), options)


def test_options_that_a_mechanism_has():
    offered = {"num_heads": 2, "kernel_size": 3, "reduction": 4}
    assert options_of("neighborhood", offered) == {"num_heads": 2, "kernel_size": 3}
    assert options_of("squeeze_excitation", offered) == {"kernel_size": 3, "reduction": 4}
    assert options_of(lambda dim: None, offered) == {}
