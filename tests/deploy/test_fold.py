"""Constants of a graph are computed once."""

from __future__ import annotations

import torch
from torch import nn

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


def _folded(module: nn.Module, x: torch.Tensor) -> torch.fx.GraphModule:
    graph = torch.export.export(module, (x,)).module()
    fold_constants(graph)
    return graph


def _calls(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@torch.no_grad()
def test_tables_become_constants():
    module, x = _Table(), torch.randn(3, 3)
    graph = _folded(module, x)
    assert _calls(graph) == ["aten.add.Tensor"]
    assert torch.equal(graph(x), module(x))


@torch.no_grad()
def test_chance_is_drawn_anew():
    graph, x = _folded(_Chance(), torch.zeros(3)), torch.zeros(3)
    assert not torch.equal(graph(x), graph(x))


@torch.no_grad()
def test_what_is_written_into_stays():
    module, x = _Written(), torch.randn(3, 3)
    graph = _folded(module, x)
    assert torch.equal(graph(x), module(x))
    assert torch.equal(graph(x), module(x))
