"""The output has the form its role promises, at every size of the input."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.checks.running import check, outputs, require
from foveate.checks.subject import Size, Subject

SIZES: tuple[Size, ...] = ((8, 8), (7, 5), (5, 12), (13, 3))
SMALL_SIZES: tuple[Size, ...] = ((1, 1), (1, 2), (2, 1), (2, 3), (1, 7), (9, 1), (3, 3))


@check()
def check_output_shape(subject: Subject) -> None:
    """Square and oblong, even and odd sizes keep the shape that the role promises."""
    _run_sizes(subject, SIZES)


@check()
def check_small_sizes(subject: Subject) -> None:
    """Maps of one row, one column and one cell work as well."""
    _run_sizes(subject, SMALL_SIZES)


@check()
def check_empty_batch(subject: Subject) -> None:
    """No samples in, no samples out, and a backward pass that runs."""
    module = subject.build()
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5), batch=0))
    result = outputs(module, inputs)
    _require_form(subject, inputs, result)
    sum(y.sum() for y in result).backward()


def _run_sizes(subject: Subject, sizes: tuple[Size, ...]) -> None:
    module = subject.build()
    with torch.no_grad():
        for size in sizes:
            inputs = subject.inputs(size)
            _require_form(subject, inputs, outputs(module, inputs))


def _require_form(subject: Subject, inputs: tuple[Tensor, ...], result: tuple[Tensor, ...]) -> None:
    given = " and ".join(str(tuple(x.shape)) for x in inputs)
    if subject.role == "aligner":
        query, memory = inputs
        positions = query.shape[:2]
        expected = [(*positions, memory.shape[2]), (*positions, memory.shape[1])]
    else:
        expected = [tuple(inputs[0].shape)]
    shapes = [tuple(y.shape) for y in result]
    require(shapes == expected, f"{given} gives {shapes}, expected {expected}")
    for y in result:
        require(y.dtype == inputs[0].dtype, f"{inputs[0].dtype} gives {y.dtype}")
        require(bool(torch.isfinite(y).all()), f"{given} gives numbers that are not finite")
