"""One layer's attention on the image's grid, from what the layer computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from foveate.analysis._attention_calls import LARGEST, Call, CannotShowError
from foveate.analysis._shifted_windows import is_windowed, windows_of
from foveate.analysis._token_grids import Grid, Tokens, keys_of, tokens_of

_CHANNELS = ("timm.models.xcit.XCA", "timm.models.edgenext.CrossCovarianceAttn")


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Attention of one layer, as NumPy arrays.

    B images, h heads, Q queries, P prefix tokens (class, distillation, registers). Where a layer
    attends over positions, ``maps``, ``to_prefix`` and ``to_padding`` of a query sum to one (with
    CaiT's talking heads, whose weights are mixed after the softmax, they do not).

    Attributes:
        name: of the layer in the model.
        kind: ``"positions"``, or ``"channels"`` where channels attend to channels.
        heads: their numbers.
        grid: rows and columns of the layer's queries; (0, 0) where only prefix tokens ask.
        queries: row and column on ``grid`` of each query (Q, 2).
        maps: what queries attend to, (B, h, Q, rows, columns) on the grid of keys, each cell of
            which is an equal part of the image; of channels (B, h, D, D).
        to_prefix: what queries give to prefix tokens (B, h, Q, P).
        to_padding: what queries give to padding around the map, (B, h, Q).
        prefix_maps: what prefix tokens attend to, (B, h, P, rows, columns).
        prefix_to_prefix: what they give each other (B, h, P, P).
    """

    name: str
    kind: Literal["positions", "channels"]
    heads: tuple[int, ...]
    grid: Grid
    queries: np.ndarray
    maps: np.ndarray
    to_prefix: np.ndarray
    to_padding: np.ndarray
    prefix_maps: np.ndarray
    prefix_to_prefix: np.ndarray

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.maps.shape[-2:]))
        return (
            f"LayerMaps({self.name!r}, {len(self.heads)} heads, {len(self.queries)} queries of "
            f"{self.grid[0]}x{self.grid[1]}, {self.kind} {shape}, "
            f"{self.prefix_maps.shape[2]} prefix tokens)"
        )


@dataclass
class Asked:
    """What is asked of each layer.

    Attributes:
        images: (B, C, H, W).
        heads: numbers; None for all.
        queries: rows and columns in pixels; None for all positions.
        taken: bytes of the maps so far.
    """

    images: Tensor
    heads: tuple[int, ...] | None
    queries: tuple[tuple[int, int], ...] | None
    taken: int = 0

    @property
    def size(self) -> Grid:
        height, width = self.images.shape[2:]
        return height, width

    def heads_of(self, call: Call) -> tuple[int, ...]:
        """Those of a layer.

        Raises:
            ValueError: if it has not all that are asked for.
        """
        there = call.shape[1]
        for head in self.heads or ():
            if head not in range(there):
                raise ValueError(f"{call.layer} has no head {head!r}; it has 0 to {there - 1}")
        return tuple(range(there)) if self.heads is None else self.heads

    def cells(self, grid: Grid) -> Tensor:
        """Numbers of the positions that ask, row by row (Q,)."""
        rows, columns = grid
        if self.queries is None or not rows * columns:
            return torch.arange(rows * columns)
        height, width = self.size
        return torch.tensor(
            [y * rows // height * columns + x * columns // width for y, x in self.queries]
        ).long()

    def claim(self, layer: str, *shape: int) -> None:
        """Count the numbers of a layer's maps.

        Raises:
            ValueError: if they are too many.
        """
        self.taken += 4 * int(np.prod(shape, dtype=np.int64))
        if self.taken > LARGEST:
            raise ValueError(
                f"the maps of the layers up to {layer} would take {self.taken / 2**30:.1f} GiB, "
                "and 1 GiB is the most: ask for some queries, layers or heads"
            )


class _Weights(NamedTuple):
    """The arrays of :class:`LayerMaps`, as tensors."""

    maps: Tensor
    to_prefix: Tensor
    to_padding: Tensor
    prefix_maps: Tensor
    prefix_to_prefix: Tensor


def maps_of(call: Call, model: nn.Module, asked: Asked) -> LayerMaps:
    """The maps of a layer.

    Raises:
        CannotShowError: if it is not known where its queries and keys lie in the image.
        ValueError: if a head does not exist, or the maps take too much memory.
    """
    heads = asked.heads_of(call)
    if _class_name(call.module) in _CHANNELS:
        return _of_channels(call, heads, asked)
    if call.parents and is_windowed(call.parents[0].module):
        return _of_windows(call, call.parents[0].module, heads, asked)
    return _of_positions(call, model, heads, asked)


def _of_channels(call: Call, heads: tuple[int, ...], asked: Asked) -> LayerMaps:
    asked.claim(call.layer, call.shape[0], len(heads), *call.shape[2:])
    maps = call.rows(None)[:, list(heads)]
    none = maps.new_zeros(*maps.shape[:2], 0, 0)
    weights = _Weights(maps, none, none.flatten(2), none[..., None], none)
    return _layer(call, "channels", heads, (0, 0), torch.zeros(0).long(), weights)


def _of_positions(
    call: Call, model: nn.Module, heads: tuple[int, ...], asked: Asked
) -> LayerMaps:  # fmt: skip
    batch, _, count, keys = call.shape
    asks, gets = _tokens(call, model, asked)
    cells = asked.cells(asks.grid)
    asked.claim(call.layer, batch, len(heads), asks.prefix + len(cells), keys)
    rows = torch.cat((torch.arange(asks.prefix), asks.prefix + cells)).to(asked.images.device)
    found = call.rows(None if len(rows) == count else rows)[:, list(heads)]
    prefix, maps = found[..., : gets.prefix], found[..., gets.prefix :].unflatten(-1, gets.grid)
    padding = prefix.new_zeros(prefix.shape[:3])
    p = asks.prefix
    weights = _Weights(
        maps[:, :, p:], prefix[:, :, p:], padding[:, :, p:], maps[:, :, :p], prefix[:, :, :p]
    )
    return _layer(call, "positions", heads, asks.grid, cells, weights)


def _of_windows(
    call: Call, block: nn.Module, heads: tuple[int, ...], asked: Asked
) -> LayerMaps:  # fmt: skip
    """Windows are small: the weights of all are made, and the rows asked for are put on the map."""
    batch, x = len(asked.images), call.parents[0].inputs[0]
    grid = (x.shape[1], x.shape[2])  # of channels last
    windows = windows_of(block, grid)  # (n, L)
    if call.shape[0] != batch * len(windows) or call.shape[2] != windows.shape[1]:
        raise CannotShowError(f"its windows are not those of {type(block).__name__}")
    cells, count = asked.cells(grid).to(windows.device), grid[0] * grid[1]
    asked.claim(call.layer, batch, len(heads), len(cells), count)
    asked.claim(call.layer, *call.shape)
    places = torch.empty(count, dtype=torch.long, device=windows.device)
    inside = windows.flatten() >= 0
    places[windows.flatten()[inside]] = inside.nonzero().squeeze(1)
    window, slot = places[cells] // windows.shape[1], places[cells] % windows.shape[1]
    weights = call.rows(None)[:, list(heads)].unflatten(0, (batch, -1))  # (B, n, h, L, L)
    rows = weights[:, window, :, slot].transpose(0, 1).transpose(1, 2)  # (B, h, Q, L)
    keys = (windows[window] + 1).expand_as(rows)
    spread = rows.new_zeros(*rows.shape[:3], 1 + count).scatter_add_(3, keys, rows)
    none = rows.new_zeros(*rows.shape[:2], 0, 0)
    maps = spread[..., 1:].unflatten(-1, grid)
    found = _Weights(maps, rows[..., :0], spread[..., 0], maps[:, :, :0], none)
    return _layer(call, "positions", heads, grid, cells, found)


def _layer(
    call: Call,
    kind: Literal["positions", "channels"],
    heads: tuple[int, ...],
    grid: Grid,
    cells: Tensor,
    weights: _Weights,
) -> LayerMaps:
    columns = max(grid[1], 1)
    queries = torch.stack((cells // columns, cells % columns), 1)
    queries, *arrays = (each.detach().cpu().numpy() for each in (queries, *weights))
    return LayerMaps(call.layer, kind, heads, grid, queries, *arrays)


def _tokens(call: Call, model: nn.Module, asked: Asked) -> tuple[Tokens, Tokens]:
    """How the queries and the keys of a layer stand for the image."""
    batch, _, count, keys = call.shape
    height, width = asked.size
    if batch != len(asked.images):
        raise CannotShowError(
            f"it attends within {batch // len(asked.images)} groups of each image, and where their "
            "cells lie is not known"
        )
    stated = list(_stated_grids(call, model, asked))
    if count == 1 and keys > 1:  # a class token, or one that pools, asks alone
        asks, gets = Tokens(1, (0, 0)), tokens_of(keys, stated, asked.size)
    else:
        asks = tokens_of(count, stated, asked.size)
        gets = asks if count == keys or asks is None else keys_of(keys, asks)
    if asks is None or gets is None:
        raise CannotShowError(
            f"its {count} queries and {keys} keys are no grid of an image of {height}x{width}"
        )
    return asks, gets


def _stated_grids(call: Call, model: nn.Module, asked: Asked) -> Iterator[Grid]:
    """Grids that the layer's map, its arguments or a model's embedding of patches state."""
    for value in call.inputs:
        if isinstance(value, Tensor) and value.dim() == 4:
            yield value.shape[2], value.shape[3]
        elif isinstance(value, tuple | list) and [type(each) for each in value] == [int, int]:
            yield value[0], value[1]
    for module in (*(parent.module for parent in call.parents), model):
        embedding: Any = getattr(module, "patch_embed", None)
        if hasattr(embedding, "dynamic_feat_size"):
            rows, columns = embedding.dynamic_feat_size(asked.size)
            yield rows, columns


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
