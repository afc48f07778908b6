"""Samples of a batch, and positions where no order is claimed, are interchangeable."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.checks.running import check, outputs, require_close
from foveate.checks.subject import Subject
from foveate.contracts import Role


@check()
def check_samples_alone(subject: Subject) -> None:
    """Each sample alone gives what it gives in the batch (eval mode)."""
    module = subject.build()
    inputs = subject.inputs((7, 5), batch=3)
    with torch.no_grad():
        together = outputs(module, inputs)
        for i in range(3):
            alone = outputs(module, tuple(x[i : i + 1] for x in inputs))
            require_close(alone, tuple(y[i : i + 1] for y in together), f"sample {i} alone")


@check()
def check_neighbour_ignored(subject: Subject) -> None:
    """Replacing one sample, even by enormous numbers, leaves the others as they were."""
    module = subject.build()
    inputs = subject.inputs((6, 5), batch=2)
    replaced = tuple(torch.cat((x[:1], 1e3 * x[1:].flip(1))) for x in inputs)
    with torch.no_grad():
        before, after = outputs(module, inputs), outputs(module, replaced)
    require_close(tuple(y[:1] for y in after), tuple(y[:1] for y in before), "the other sample")


@check(tags=("unordered",))
def check_positions_unordered(subject: Subject) -> None:
    """Reordering the positions reorders the output alike (an aligner's context not at all)."""
    module = subject.build()
    *query, x = subject.inputs((6, 5))
    with torch.no_grad():
        result = outputs(module, (*query, x))
        reordered = outputs(module, (*query, _reordered(x, subject.role)))
    if subject.role == "aligner":
        expected: tuple[Tensor, ...] = (result[0], result[1][..., _order(x.shape[1])])
    else:
        expected = (_reordered(result[0], subject.role),)
    require_close(reordered, expected, "reordered positions")


def _reordered(x: Tensor, role: Role) -> Tensor:
    """The positions of ``x`` in an order that no neighbourhood survives."""
    if role in ("mixer", "gate"):
        tokens = x.flatten(2)
        return tokens[..., _order(tokens.shape[2])].unflatten(2, x.shape[2:])
    return x[:, _order(x.shape[1])]


def _order(positions: int) -> Tensor:
    return torch.arange(positions) * 7 % positions  # 30 or 5 of them: each comes once
