"""A graph has no step twice."""

from __future__ import annotations

import torch
from torch import nn

from foveate.deploy.simplify import simplify


class _Twice(nn.Module):
    """Adds a table of the size twice, gives one output twice, and converts nothing."""

    def forward(self, x):
        total = x.float()
        for _ in range(2):
            total = total + torch.arange(x.shape[1], dtype=x.dtype)
        return total, total.sum(), total.sum()


class _Alias(nn.Module):
    def forward(self, x):
        return torch.ops.aten.alias(x) + 1


class _Written(nn.Module):
    def forward(self, x):
        first = x * 1.0
        first.add_(1.0)
        return first, x * 1.0


def _simplified(module: nn.Module) -> torch.export.ExportedProgram:
    shape = ({1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.randn(2, 5),), dynamic_shapes=shape)
    simplify(program)
    return program.run_decompositions({})  # which checks the signature as well


def test_equal_steps_are_one():
    module, x = _Twice(), torch.randn(2, 7)
    program = _simplified(module)
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    counts = {kind: sum(kind in name for name in calls) for kind in ("add", "sum", "arange")}
    assert counts == {"add": 2, "sum": 1, "arange": 1}
    assert not any("assert" in name or "to_copy" in name for name in calls)
    for given, expected in zip(program.module()(x), module(x), strict=True):
        assert torch.equal(given, expected)


def test_aliases_that_taking_apart_makes_are_left_out():
    x = torch.randn(2, 5)
    program = torch.export.export(_Alias(), (x,)).run_decompositions({})
    assert "alias" in str(program.graph)
    simplify(program)
    assert "alias" not in str(program.graph)
    assert torch.equal(program.module()(x), x + 1)


def test_what_is_written_into_stays():
    module, x = _Written(), torch.randn(2, 7)
    for given, expected in zip(_simplified(module).module()(x), module(x), strict=True):
        assert torch.equal(given, expected)
