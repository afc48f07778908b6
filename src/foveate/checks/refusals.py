"""Mistakes are refused where they are made, in a message that states what was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from foveate.checks.running import CheckFailure, check, require
from foveate.checks.subject import Subject

_SIZE = (6, 5)


def require_refusal(call: Callable[[], Any], what: str, *stated: str) -> None:
    """Fail unless ``call`` raises ValueError or TypeError with a message that says ``stated``."""
    try:
        call()
    except (ValueError, TypeError) as error:
        message = str(error)
    except Exception as error:
        raise CheckFailure(
            f"{what} raises {type(error).__name__} ({error}), not ValueError or TypeError"
        ) from error
    else:
        raise CheckFailure(f"{what} is accepted")
    for part in stated:
        require(part in message, f"{what} is refused without stating {part!r}: {message}")


@check()
def check_wrong_rank(subject: Subject) -> None:
    """Inputs with a dimension too many or too few are refused."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    for i, x in enumerate(inputs):
        for wrong in (x[0], x[None]):
            given = (*inputs[:i], wrong, *inputs[i + 1 :])
            stated = str(tuple(wrong.shape))
            require_refusal(lambda g=given: module(*g), f"a {wrong.dim()}-D input", stated)


@check()
def check_wrong_channels(subject: Subject) -> None:
    """Inputs of other channels than the module was built with are refused."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    channels = 1 if subject.role in ("mixer", "gate") else 2
    for i, x in enumerate(inputs):
        wrong = x.narrow(channels, 0, x.shape[channels] - 2)
        given = (*inputs[:i], wrong, *inputs[i + 1 :])
        stated = str(tuple(wrong.shape))
        require_refusal(lambda g=given: module(*g), "an input of other channels", stated)


@check()
def check_wrong_dtype(subject: Subject) -> None:
    """Inputs of integers, and inputs that are no tensors, are refused."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    integers = tuple(x.to(torch.int64) for x in inputs)
    require_refusal(lambda: module(*integers), "an integer input", "int64")
    arrays = tuple(x.numpy() for x in inputs)
    require_refusal(lambda: module(*arrays), "a NumPy array", "ndarray")


@check()
def check_no_positions(subject: Subject) -> None:
    """Inputs with samples but no positions are refused."""
    module = subject.build()
    for size in ((0, 5), (6, 0)):
        inputs = subject.inputs(size)
        if subject.role == "aligner" and size[1]:
            continue  # a memory may be asked nothing
        stated = str(tuple(inputs[-1].shape))
        require_refusal(lambda given=inputs: module(*given), "an input of no positions", stated)


@check()
def check_wrong_dim(subject: Subject) -> None:
    """A dimension that is no positive integer is refused."""
    for wrong in (0, -4):
        require_refusal(lambda dim=wrong: subject.create(dim=dim), f"dim={wrong}", str(wrong))


@check(tags=("heads",))
def check_wrong_heads(subject: Subject) -> None:
    """A head count that does not divide the dimension, or is none, is refused."""
    for wrong in (subject.dim - 1, 0):
        call = lambda heads=wrong: subject.create(num_heads=heads)  # noqa: E731
        require_refusal(call, f"num_heads={wrong}", str(wrong))


@check()
def check_unknown_option(subject: Subject) -> None:
    """A constructor option that does not exist is refused."""
    require_refusal(lambda: subject.create(dimm=4), "an unknown option", "dimm")


@check()
def check_wrong_option(subject: Subject) -> None:
    """Probabilities outside [0, 1) and sizes of zero are refused."""
    wrong = {"attn_drop": 1.5, "proj_drop": -0.1, "kernel_size": 0, "window_size": 0,
             "dilation": 0, "reduction": 0}  # fmt: skip
    known = inspect.signature(type(subject.create())).parameters
    for option, value in wrong.items():
        if option in known:
            call = lambda o=option, v=value: subject.create(**{o: v})  # noqa: E731
            require_refusal(call, f"{option}={value}", str(value))
