"""Where the tokens of an attention lie in the image: a grid of positions, and what is beside it.

A layer of N tokens holds P prefix tokens (class, distillation, registers) and a grid of N - P
positions. The grid is that of the map that the layer gets, of sizes among its arguments, or of the
model's embedding of patches. Where none of these is stated it is the grid of N - P cells, P as
small as can be, that steps of one size make of an image of H x W pixels: ``H / s`` rows and
``W / s`` columns, both rounded down or both up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

Grid = tuple[int, int]

_MOST_PREFIX = 16
"""Prefix tokens at most, where the grid is stated."""
_LIKELY_PREFIX = (0, 1, 2, 4, 5)
"""Prefix tokens where it is not: class and distillation tokens and four registers."""


class Tokens(NamedTuple):
    """How a layer's tokens stand for an image.

    Attributes:
        prefix: class, distillation and register tokens, before those of positions.
        grid: rows and columns of positions; (0, 0) where there are none.
    """

    prefix: int
    grid: Grid


def tokens_of(count: int, stated: Iterable[Grid], image: Grid) -> Tokens | None:
    """How ``count`` tokens stand for an image; None where they do not.

    Args:
        count: of tokens N.
        stated: grids that the layer or the model states.
        image: height and width in pixels.
    """
    for rows, columns in stated:
        if 0 <= (prefix := count - rows * columns) <= _MOST_PREFIX:
            return Tokens(prefix, (rows, columns))
    even = _even_grids(image)
    known = (Tokens(p, even[count - p]) for p in _LIKELY_PREFIX if count - p in even)
    return next(known, None)


def keys_of(count: int, queries: Tokens) -> Tokens | None:
    """How ``count`` keys stand for the image; fewer than queries where the map was made smaller.

    They lie on a grid that is the queries' in steps of one size, or on a square one.
    """
    even = _even_grids(queries.grid)
    for prefix in {queries.prefix: None, 0: None}:
        if count - prefix in even:
            return Tokens(prefix, even[count - prefix])
    side = isqrt(count)
    return Tokens(0, (side, side)) if side * side == count else None


@lru_cache(maxsize=64)
def _even_grids(size: Grid) -> dict[int, Grid]:
    """Grids that steps of one size make of ``size``, by their counts of cells."""
    found: dict[int, Grid] = {}
    for step in range(1, max(size) + 1):
        down, up = ((size[0] // step, size[1] // step), (-(-size[0] // step), -(-size[1] // step)))
        for rows, columns in (down, up):
            if rows and columns:
                found.setdefault(rows * columns, (rows, columns))
    return found
