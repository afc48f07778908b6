"""Joint projections taken apart: the same numbers from a layer a part."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from foveate.deploy.split import split_projections

FREE = torch.export.Dim.DYNAMIC


class Projection(nn.Module):
    """A joint projection of 4 channels to 24, used as ``kind`` says."""

    def __init__(self, kind: str, bias: bool = True) -> None:
        super().__init__()
        self.qkv, self.kind = nn.Linear(4, 24, bias=bias), kind

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.kind)(self.qkv(x), x)

    def unbound(self, y: Tensor, x: Tensor) -> Tensor:
        q, k, v = y.unflatten(-1, (3, 2, 4)).unbind(-3)
        return q - 2 * k + 3 * v

    def permuted(self, y: Tensor, x: Tensor) -> Tensor:
        """As timm's attention has it."""
        q, k, v = y.reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return (q @ k.mT) @ v

    def chunked(self, y: Tensor, x: Tensor) -> Tensor:
        q, k, v = y.chunk(3, -1)
        return q - 2 * k + 3 * v

    def heads_first(self, y: Tensor, x: Tensor) -> Tensor:
        q, k, v = y.unflatten(-1, (2, 3, 4)).unbind(-2)
        return q - 2 * k + 3 * v

    def unequal(self, y: Tensor, x: Tensor) -> Tensor:
        q, k = y.split((8, 16), -1)
        return torch.cat([k, 2 * q], -1)

    def split_again(self, y: Tensor, x: Tensor) -> Tensor:
        """Halves of the heads, those of the values twice."""
        q, k, v = y.unflatten(-1, (3, 2, 4)).unbind(-3)
        halves = [each.chunk(2, -2) for each in (q, k, v, v)]
        return sum(torch.cat([i * a, b], -2) for i, (a, b) in enumerate(halves))

    def also_whole(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.cat(y.chunk(3, -1)[:2], -1).sum() + y

    def along_positions(self, y: Tensor, x: Tensor) -> Tensor:
        first, second = y.split((2, 3), 1)
        return torch.cat([second, first], 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("unbound", 3),
        ("permuted", 3),
        ("chunked", 3),
        ("heads_first", 3),
        ("unequal", 2),
        ("split_again", 6),
        ("also_whole", 1),
        ("along_positions", 1),
    ],
)
def test_a_projection_is_taken_apart_where_only_its_parts_are_used(kind, layers, bias):
    model, x = Projection(kind, bias).eval(), torch.randn(3, 5, 4)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: FREE},))
    graph = program.module()
    split_projections(graph)
    counts = Counter(node.target for node in graph.graph.nodes)
    assert counts[torch.ops.aten.linear.default] == layers
    for size in (3, 7):
        x = torch.randn(size, 5, 4)
        torch.testing.assert_close(graph(x), model(x))
