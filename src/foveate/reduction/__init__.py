"""Reducers: a vision transformer in, a cheaper one out.

One file a reducer. :func:`reduce` applies one by name, :func:`sources` says which token of a
reduced model stands for which patch of an image and :func:`picture` draws it,
:func:`attention_maps` shows on the image's grid what a reduced model attends to, and
:func:`multiply_adds` says what it costs.
"""

from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction.attention import attention_maps
from foveate.reduction.early_exit import find_thresholds, solve_budget
from foveate.reduction.on_grid import source_maps
from foveate.reduction.picture import picture
from foveate.reduction.whole import (
    finish,
    multiply_adds,
    reduce,
    reducer_of,
    sources,
    watching,
)

__all__ = [
    "ReducedBlocks",
    "attention_maps",
    "find_thresholds",
    "finish",
    "multiply_adds",
    "picture",
    "reduce",
    "reducer_of",
    "solve_budget",
    "source_maps",
    "sources",
    "watching",
]
