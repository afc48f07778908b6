"""How a map is cut into windows: their size, the padded map's, and which cell lies where.

A window holds neighbours or, ``spread``, every ``n``-th cell of the map; one as long as the map is
a stripe. A shift moves the windows down and right, and those at the end hold cells from both ends
of the map, which do not attend to each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foveate import layout

WindowSize = tuple[int | None, int | None]
"""Rows and columns; None stands for the map's own."""


class Windows(NamedTuple):
    """The windows of one map.

    Attributes:
        map: the map's height and width.
        size: a window's.
        shift: how far the windows are moved, down and right.
        spread: whether a window's cells are spread evenly over the map.
    """

    map: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    spread: bool = False

    @property
    def padded(self) -> tuple[int, int]:
        """The size of the map that the windows fill."""
        height, width = (
            self.map[i]
            if layout.is_same(self.map[i], self.size[i])
            else layout.ceil_to_multiple(self.map[i], self.size[i])
            for i in (0, 1)
        )
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """How many windows there are, down and across."""
        height, width = self.padded
        return height // self.size[0], width // self.size[1]

    @property
    def count(self) -> int:
        """How many windows there are."""
        return self.grid[0] * self.grid[1]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key, padding included."""
        return self.padded[0] * self.padded[1] * self.size[0] * self.size[1]

    def split(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, n, T, C)``."""
        x = layout.pad_to_size(x, self.padded)
        return self._partition(layout.rolled(x, (-self.shift[0], -self.shift[1])))

    def merge(self, y: Tensor) -> Tensor:
        """``(B, n, T, C) -> (B, H, W, C)``."""
        merge = layout.grid_merge if self.spread else layout.window_merge
        y = layout.rolled(merge(y, self.size, self.padded), self.shift)
        return layout.crop(y, self.map)

    def together(self, device: torch.device) -> Tensor | None:
        """``(n, T, T)``: which cells of a window may attend to each other; None: all."""
        known = layout.is_known(self.map[0]) and layout.is_known(self.map[1])
        if known and self.shift == (0, 0) and self.padded == self.map:
            return None
        rows, columns = (self._labels(i, device) for i in (0, 1))
        # Padding is alone with itself, so that no row of the mask is empty.
        real = (rows >= 0)[:, None] & (columns >= 0)
        labels = torch.where(real, 2 * rows[:, None] + columns, -1)
        labels = self._partition(labels[None, :, :, None])[0, :, :, 0]
        return labels[:, :, None] == labels[:, None, :]

    def _partition(self, x: Tensor) -> Tensor:
        partition = layout.grid_partition if self.spread else layout.window_partition
        return partition(x, self.size)

    def _labels(self, axis: int, device: torch.device) -> Tensor:
        """Along one axis after the roll: 1 for cells that came round the end, -1 for padding."""
        size, padded, shift = self.map[axis], self.padded[axis], self.shift[axis]
        place = torch.arange(padded, device=device) + shift
        wrapped = place >= padded
        return torch.where(~wrapped & (place >= size), -1, wrapped.int())


def fitted(size: tuple[int, int], window_size: WindowSize) -> tuple[int, int]:
    """The size of a window on a map of ``size``, no larger than the map."""
    sides = [
        length if wanted is None or (layout.is_known(length) and wanted >= length) else wanted
        for length, wanted in zip(size, window_size, strict=True)
    ]
    return sides[0], sides[1]
