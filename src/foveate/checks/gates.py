"""A gate multiplies, and says by what."""

from __future__ import annotations

import torch

from foveate.checks.running import check, require, require_close
from foveate.checks.subject import Subject


@check(roles=("gate",))
def check_gate_multiplies(subject: Subject) -> None:
    """``gate(x)`` is broadcastable to ``x``, and ``x * gate(x)`` is the output."""
    module = subject.build()
    for size in ((6, 5), (1, 1), (1, 7)):
        (x,) = subject.inputs(size)
        with torch.no_grad():
            gate, expected = module.gate(x), module(x)
        product = x * gate
        require(
            product.shape == x.shape,
            f"gate(x) of shape {tuple(gate.shape)} does not fit x of shape {tuple(x.shape)}",
        )
        require_close(product, expected, f"x * gate(x) at size {size}")
