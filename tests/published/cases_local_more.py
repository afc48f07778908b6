"""Local attention beyond dot products."""

from __future__ import annotations

from foveate.attention.local.san_pairwise import PairwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention
from tests.published.golden import Row


def _san(cls: type):
    def build(in_planes: int, rel_planes: int, share_planes: int, kernel_size: int, **_):
        return cls(in_planes, kernel_size, rel_dim=rel_planes, share=share_planes)

    return build


ROWS = [
    Row("san_sam_pairwise", _san(PairwiseAttention)),
    Row("san_sam_patchwise", _san(PatchwiseAttention)),
]
