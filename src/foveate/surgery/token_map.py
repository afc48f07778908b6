"""Which cell of a feature map each token holds: maps, tokens, cut windows, any order of them.

A tensor is read as ``S`` slots a sample, each with ``C`` channels. A slot holds a cell of an
``H x W`` map, or something else: a class token, padding. Where the slots are in another order
than row by row, ``order`` says which slot holds which cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.surgery._origins import ABSENT, PADDING, SAMPLE, Origin

_APART = 0.25  # pixels; cells that are nearer are in the same row or column
_CHANNEL_AXES = {3: (2, 1), 4: (1, 3), 5: (4,)}


@dataclass(frozen=True, eq=False)
class TokenMap:
    """How a tensor holds a map.

    Attributes:
        shape: of the tensor, for the images that were traced.
        axis: which axis has the channels.
        size: height and width of the map.
        slots: how many tokens a sample has, cells and others.
        order: ``(H * W,)``, the slot of each cell; None where cells lie row by row behind the
            prefix tokens.
        prefix: slots of tokens that are not cells: class and register tokens.
        padding: how many slots hold padding.
        windows: by how much the batch axis grew: windows cut out of every sample.
    """

    shape: tuple[int, ...]
    axis: int
    size: tuple[int, int]
    slots: int
    order: Tensor | None
    prefix: tuple[int, ...]
    padding: int
    windows: int

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.shape[self.axis]

    @property
    def layout(self) -> str:
        """NCHW, NHWC, BNC or BCN; a shape with further axes is BNC with a note elsewhere."""
        if len(self.shape) == 4 and self.axis == 1:
            return "NCHW"
        if len(self.shape) == 4:
            return "NHWC"
        return "BCN" if self.axis == 1 else "BNC"

    @property
    def row_major(self) -> bool:
        """Whether cells lie row by row."""
        return self.order is None or bool((self.order.diff() > 0).all())

    @property
    def is_map(self) -> bool:
        """Whether it is a whole map, whose height and width its shape shows."""
        return len(self.shape) == 4 and self.order is None and self.windows == 1


def read(
    shape: tuple[int, ...], origin: Origin | None, batch: int, prefer: int | None = None
) -> TokenMap | str:
    """How a tensor holds a map, or why it cannot be told.

    Args:
        shape: of the tensor.
        origin: where its elements come from.
        batch: how many images were traced.
        prefer: the channel axis to try first, where more than one would do.
    """
    if origin is None:
        return "where its elements come from cannot be told"
    axes = _CHANNEL_AXES.get(len(shape))
    if axes is None:
        return f"a {len(shape)}-D tensor"
    if prefer is not None and prefer in axes:
        axes = (prefer, *axes)
    reason = "no axis of channels"
    for axis in axes:
        if not all(shape[axis] == 1 or c.stride(axis) == 0 for c in (origin.row, origin.column)):
            continue
        found = _read(shape, origin, batch, axis)
        if isinstance(found, TokenMap):
            return found
        reason = found
    return reason


def _read(shape: tuple[int, ...], origin: Origin, batch: int, axis: int) -> TokenMap | str:
    rows, columns = (c.select(axis, 0).flatten() for c in (origin.row, origin.column))
    if len(rows) % batch or shape[0] % batch:
        return "the batch is not its first axis"
    rows, columns = rows.view(batch, -1), columns.view(batch, -1)
    slots = rows.shape[1]
    there = rows[0] >= 0
    if not bool(there.any()):
        return "nothing of the image is in it"
    samples = torch.floor(rows / SAMPLE)
    if not bool((samples[:, there] == torch.arange(batch)[:, None]).all()):
        return "samples are interleaved along its first axis"
    y, x = rows[0, there], columns[0, there]
    if not torch.allclose(rows[:, there] - samples[:, there] * SAMPLE, y, rtol=0, atol=_APART):
        return "samples differ in the order of their cells"
    (height, i), (width, j) = _ranks(y), _ranks(x)
    if height * width != len(y):
        sides = shape[1 + (axis == 1) : 3 + (axis == 1)]
        if len(shape) != 4 or not _is_grid(y, x, sides):
            return f"{len(y)} cells do not make a map"
        (height, width), cells = sides, torch.arange(len(y))
        i, j = cells // width, cells % width
    cells = i * width + j
    order = torch.full((height * width,), -1)
    order[cells] = torch.arange(slots)[there]
    if bool((order < 0).any()):
        return "some cells are there twice"
    prefix = torch.arange(slots)[rows[0] == ABSENT].tolist()
    padding = int((rows[0] == PADDING).sum())
    behind = torch.arange(len(prefix), len(prefix) + height * width)
    plain = (
        torch.equal(order, behind)
        and slots == len(prefix) + height * width
        and prefix == list(range(len(prefix)))
    )
    if plain and len(shape) == 4 and shape[1 + (axis == 1) : 3 + (axis == 1)] != (height, width):
        plain = False
    return TokenMap(
        tuple(shape), axis, (height, width), slots, None if plain else order, tuple(prefix),
        padding, shape[0] // batch,
    )  # fmt: skip


def _is_grid(y: Tensor, x: Tensor, sides: tuple[int, ...]) -> bool:
    """Whether every row lies above the next and every column left of the next.

    Where a layer averages maps that were shifted against each other, cells at the border stand for
    fewer of them than those beside them, and are moved by part of a row.
    """
    if len(y) != sides[0] * sides[1]:
        return False
    for places in (y.view(sides), x.view(sides).T):
        if not bool((places[:-1].amax(1) < places[1:].amin(1)).all()):
            return False
    return True


def _ranks(c: Tensor) -> tuple[int, Tensor]:
    """How many different values there are, and which of these each is, smallest first."""
    values, where = c.sort()
    number = torch.cat([torch.zeros(1), (values.diff() > _APART).double()]).cumsum(0).long()
    ranks = torch.empty_like(where)
    ranks[where] = number
    return int(number[-1]) + 1, ranks
