"""Reducers: a vision transformer in, a cheaper one out.

One file a reducer. :func:`reduce` applies one by name, :func:`sources` says which token of a
reduced model stands for which patch of an image, :func:`multiply_adds` what it costs.
"""

from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction.whole import multiply_adds, reduce, reducer_of, sources, watching

__all__ = ["ReducedBlocks", "multiply_adds", "reduce", "reducer_of", "sources", "watching"]
