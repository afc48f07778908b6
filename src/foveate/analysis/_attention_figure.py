"""Attention maps as a matplotlib figure: a row a layer, a column a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foveate.analysis.attention_maps import AttentionMaps
    from foveate.analysis.layer_maps import LayerMaps

_CELL = 1.4
"""Inches of a map's side."""


def draw(found: AttentionMaps, query: int | None, image: int) -> Figure:
    """What :meth:`AttentionMaps.plot` says."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot() needs matplotlib: pip install matplotlib") from error
    _check(found, query, image)
    rows, columns = len(found), max(len(layer.heads) for layer in found.layers.values())
    figure = Figure((_CELL * columns + 1.2, _CELL * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for of_layer, layer in zip(axes, found.layers.values(), strict=True):
        for axis in of_layer[len(layer.heads) :]:
            axis.set_axis_off()
        for axis, head in zip(of_layer, range(len(layer.heads)), strict=False):
            _draw_head(axis, found, layer, head, query, image)
        of_layer[0].set_ylabel(layer.name, rotation=0, ha="right", va="center", fontsize=7)
    return figure


def _check(found: AttentionMaps, query: int | None, image: int) -> None:
    if image not in range(len(found.images)):
        raise ValueError(f"there is no image {image!r}; there are 0 to {len(found.images) - 1}")
    for layer in found.layers.values():
        if query is not None and layer.kind == "positions" and layer.grid != (0, 0):
            count = len(layer.queries)
            if query not in range(count):
                raise ValueError(f"{layer.name} has no query {query!r}; it has 0 to {count - 1}")


def _draw_head(
    axis: Any, found: AttentionMaps, layer: LayerMaps, head: int, query: int | None, image: int
) -> None:
    height, width = found.images.shape[2:]
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"head {layer.heads[head]}", fontsize=6, pad=2)
    if layer.kind == "channels":
        axis.imshow(layer.maps[image, head], cmap="viridis")
        axis.set_xlabel("channels", fontsize=6)
        return
    of_prefix = layer.grid == (0, 0) or (query is None and layer.prefix_maps.shape[2] > 0)
    number = 0 if query is None or of_prefix else query
    weights = (layer.prefix_maps if of_prefix else layer.maps)[image, head, number]
    axis.imshow(weights, cmap="viridis", extent=(0, width, height, 0), interpolation="nearest")
    if not of_prefix:
        row, column = (
            (np.asarray(layer.queries[number]) + 0.5) * (height, width) / np.asarray(layer.grid)
        )
        axis.plot([column], [row], "o", color="white", mec="black", ms=4)
