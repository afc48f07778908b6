"""Reducers: a vision transformer in, a cheaper one out.

One file a reducer. :func:`reduce` applies one by name, :func:`sources` says which token of a
reduced model stands for which patch of an image, :func:`multiply_adds` what it costs.
"""

from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction.early_exit import find_thresholds, solve_budget
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
    "find_thresholds",
    "finish",
    "multiply_adds",
    "reduce",
    "reducer_of",
    "solve_budget",
    "sources",
    "watching",
]
