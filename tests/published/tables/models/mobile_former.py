"""Mobile-Former: small networks of the published kinds of blocks, with and without groups."""

from __future__ import annotations

from typing import Any

from foveate.models.mobile_former import MobileFormer
from tests.published.golden import Row


def _network(
    block_args: list[list[Any]],
    stem_chs: int,
    num_features: int,
    token_num: int,
    token_dim: int,
    group_num: int,
    num_classes: int,
) -> MobileFormer:
    """The published list of blocks, cut before every block of stride 2."""
    (_, expansion, dim, _, stride, _), *blocks = block_args
    stages: list[list[tuple[float, int]]] = [[]] if stride == 2 else []
    for _, block_expansion, channels, _, block_stride, _ in blocks:
        if block_stride == 2:
            stages.append([])
        stages[-1].append((block_expansion, channels))
    return MobileFormer(
        num_classes=num_classes,
        stem_dim=stem_chs,
        lite=(expansion, dim, stride),
        stages=stages,
        tokens=token_num,
        token_dim=token_dim,
        groups=group_num,
        hidden=num_features,
    )


ROWS = [Row("mobile_former_grouped", _network), Row("mobile_former_plain", _network)]
