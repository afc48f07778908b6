"""The weights that a mixer shows are the weights that it uses."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.checks.running import check, require, require_close
from foveate.checks.subject import Size, Subject

_SIZES: tuple[Size, ...] = ((8, 8), (7, 5), (1, 1), (1, 6))
_MIXERS = ("mixer", "token_mixer")


@check(roles=_MIXERS, tags=("weights",))
def check_weights_are_distributions(subject: Subject) -> None:
    """``weights(x)`` is (B, heads, N, N), nowhere negative, and its rows sum to one."""
    for size in _SIZES:
        weights, positions = _weights(subject, size), size[0] * size[1]
        shape = tuple(weights.shape)
        expected = (2, *shape[1:2], positions, positions)
        require(shape == expected, f"size {size} gives weights {shape}, expected {expected}")
        require(bool((weights >= 0).all()), f"size {size} gives negative weights")
        sums = weights.sum(-1)
        require_close(sums, torch.ones_like(sums), f"sums of the rows at size {size}")


@check(roles=_MIXERS, tags=("weights",))
def check_weights_reproduce_output(subject: Subject) -> None:
    """``apply_weights(x, weights(x))`` is the output."""
    module = subject.build()
    for size in _SIZES:
        (x,) = subject.inputs(size)
        with torch.no_grad():
            reproduced = module.apply_weights(x, module.weights(x))
            require_close(reproduced, module(x), f"apply_weights at size {size}")


@check(roles=_MIXERS, tags=("weights",))
def check_other_weights_matter(subject: Subject) -> None:
    """``apply_weights`` uses the weights it is given."""
    module = subject.build()
    (x,) = subject.inputs((6, 5))
    with torch.no_grad():
        weights = module.weights(x)
        nobody = module.apply_weights(x, torch.zeros_like(weights))
        difference = (nobody - module(x)).abs().max().item()
    require(difference > 1e-4, "weights of zero give the same output")


@check(roles=_MIXERS, tags=("weights", "self"))
def check_attends_to_itself(subject: Subject) -> None:
    """In every head, every query gives itself some weight."""
    for size in _SIZES:
        diagonal = _weights(subject, size).diagonal(dim1=-2, dim2=-1)
        missing = (diagonal <= 0).nonzero()[:, 1:].tolist()
        require(not missing, f"at size {size}, (head, query) without self: {missing[:5]}")


@check(roles=_MIXERS, tags=("weights", "local"))
def check_attends_locally(subject: Subject) -> None:
    """The number of keys a query attends to does not grow with the map."""
    most = [_keys_of_a_query(subject, size) for size in ((14, 14), (17, 20))]
    require(most[1] <= most[0] < 14 * 14, f"as the map grows, a query attends to {most} keys")


def _weights(subject: Subject, size: Size) -> Tensor:
    with torch.no_grad():
        return subject.build().weights(*subject.inputs(size))


def _keys_of_a_query(subject: Subject, size: Size) -> int:
    return int((_weights(subject, size) > 0).sum(-1).max())
