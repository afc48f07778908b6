"""Constants of a graph are computed once."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import ExportedProgram

from foveate.deploy.fold import fold_constants


class _Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9))

    def forward(self, x):
        rows = torch.arange(3)[:, None] * 3 + torch.arange(3)
        return x + self.table[rows.flatten()].view(3, 3).softmax(0)


class _Chance(nn.Module):
    def forward(self, x):
        return x + torch.rand(3)


class _Written(nn.Module):
    def forward(self, x):
        count = torch.zeros(3)
        count.add_(x[0])
        return count + x


class _Outputs(nn.Module):
    """Gives a constant, and reads a parameter only through one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.arange(3) * 2, x * self.scale.exp()


def _folded(module: nn.Module, x: torch.Tensor) -> ExportedProgram:
    program = torch.export.export(module, (x,))
    fold_constants(program)
    return program


def _calls(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@torch.no_grad()
def test_tables_become_constants():
    module, x = _Table(), torch.randn(3, 3)
    program = _folded(module, x)
    assert _calls(program) == ["aten.add.Tensor"]
    assert torch.equal(program.module()(x), module(x))


@torch.no_grad()
def test_outputs_may_be_constants_and_what_nobody_reads_is_dropped():
    module, x = _Outputs(), torch.randn(3, 3)
    program = _folded(module, x).run_decompositions({})  # which checks the signature as well
    assert _calls(program) == ["aten.mul.Tensor"]
    assert not program.state_dict
    for given, expected in zip(program.module()(x), module(x), strict=True):
        assert torch.equal(given, expected)


@torch.no_grad()
def test_chance_is_drawn_anew():
    x = torch.zeros(3)
    graph = _folded(_Chance(), x).module()
    assert not torch.equal(graph(x), graph(x))


@torch.no_grad()
def test_what_is_written_into_stays():
    module, x = _Written(), torch.randn(3, 3)
    graph = _folded(module, x).module()
    assert torch.equal(graph(x), module(x))
    assert torch.equal(graph(x), module(x))
