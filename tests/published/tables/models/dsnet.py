"""DS-Net, from a port: the authors' code never appeared."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.models.dsnet import DSNet
from tests.published.golden import Row


def _network(
    img_size: int, embed_dim: Sequence[int], depth: Sequence[int], num_heads: Sequence[int]
) -> DSNet:
    return DSNet(dims=embed_dim, depths=depth, num_heads=num_heads)


ROWS = [Row("dsnet_port", _network)]
