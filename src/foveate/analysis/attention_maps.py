"""Attention maps of a whole model: what each place of an image attends to, layer by layer.

    maps[b, h, q] = softmax(s q_q k^T + m)   on the grid of keys, for the queries q asked for

taken from what the layers really computed (fused attention, windows, relative positions, rotary
embeddings, a smaller map of keys), with class and register tokens kept apart. Rows of the queries
alone are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from foveate.analysis._attention_calls import Call, CannotShowError, watch_attention
from foveate.analysis.layer_maps import Asked, LayerMaps, maps_of
from foveate.contracts import Reducer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention of the layers of a model, in the order in which they run.

    ``maps["blocks.0.attn"]`` and ``maps[0]`` give a layer, ``len(maps)`` counts them.

    Attributes:
        layers: by name.
        left_out: layers that attend and cannot be shown, with the reason.
        images: what the model got (B, C, H, W).
        queries: row and column in pixels of each query; None where all positions ask.
    """

    layers: dict[str, LayerMaps]
    left_out: dict[str, str]
    images: np.ndarray
    queries: tuple[tuple[int, int], ...] | None

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: str | int) -> LayerMaps:
        names = list(self.layers)
        return self.layers[names[layer] if isinstance(layer, int) else layer]

    def __repr__(self) -> str:
        lines = [f"  {layer!r}" for layer in self.layers.values()]
        lines += [f"  left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(["AttentionMaps:", *lines])

    def plot(self, query: int | None = None, image: int = 0) -> Figure:
        """Draw a row a layer and a column a head, as a matplotlib figure.

        Args:
            query: number of the query, which is marked; None for the first prefix token, and where
                a layer has none the first query.
            image: number of the image.

        Raises:
            ValueError: if there is no such query or image.
            ModuleNotFoundError: without matplotlib.
        """
        from foveate.analysis._attention_figure import draw

        return draw(self, query, image)


def attention_maps(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str | int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[tuple[int, int]] | None = None,
) -> AttentionMaps:
    """What places of ``images`` attend to, at each layer and head of ``model``, in eval mode.

    Shown are mechanisms of this library that have weights, what calls PyTorch's fused attention
    (timm's ViT, DeiT, EVA, BEiT, PVT v2 and their like), timm's attention without it (CaiT, XCiT,
    Swin with its windows), and ``torch.nn.MultiheadAttention``. Weights are those with which values
    are summed. A layer that attends and cannot be shown is in ``left_out``.

    Args:
        model: any module that takes images; a mechanism that takes a map will do.
        images: as the model takes them, (B, C, H, W).
        layers: names or numbers (in the order in which they run); None for all.
        heads: numbers; None for all.
        queries: rows and columns, in pixels of the image; the position that holds the pixel asks.
            None for all positions, which takes N x N numbers a head. Prefix tokens always ask.

    Raises:
        TypeError: if ``model`` is no module or ``images`` no tensor.
        ValueError: if the images are none, the model holds no attention that can be shown, a layer
            or head does not exist, a query lies outside of the image, or the maps would take more
            than 1 GiB, or a reducer has changed the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to look into, got {type(model).__name__}")
    _check_images(images)
    _refuse_reduced(model)
    asked = None if queries is None else tuple(_query(each, images) for each in queries)
    model = getattr(model, "_orig_mod", model)
    found = _Found(model, layers, Asked(images, None if heads is None else tuple(heads), asked))
    watch_attention(model, images, found.note, found.refuse)
    found.check()
    return AttentionMaps(found.layers, found.left_out, images.detach().float().cpu().numpy(), asked)


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"expected images as a tensor (B, C, H, W), got {type(images).__name__}")
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"expected images (B, C, H, W), got a tensor of {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            f"expected images as the model takes them, floating and normalized, got {images.dtype}"
        )
    if not images.isfinite().all():
        raise ValueError("the images hold values that are no finite numbers")


def _refuse_reduced(model: nn.Module) -> None:
    reducer = next((each for each in model.modules() if isinstance(each, Reducer)), None)
    if reducer is not None:
        raise ValueError(
            f"this model has been reduced by {type(reducer).__name__}, so that tokens stand for "
            "several patches or none: foveate.reduction.attention_maps shows such models"
        )


def _query(query: Any, images: Tensor) -> tuple[int, int]:
    height, width = images.shape[2:]
    if not (isinstance(query, Sequence) and len(query) == 2):
        raise ValueError(f"a query is a row and a column in pixels, got {query!r}")
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"query {tuple(query)} is outside the image of {height}x{width} pixels")
    return int(row), int(column)


@dataclass
class _Found:
    """Collects the maps of the layers that are wanted."""

    model: nn.Module
    wanted: Sequence[str | int] | None
    asked: Asked
    layers: dict[str, LayerMaps] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def refuse(self, layer: str, reason: str) -> None:
        self.left_out[layer] = reason

    def note(self, layer: str, call: Callable[[], Call]) -> None:
        number = len(self.names)
        self.names.append(layer)
        if self.wanted is not None and not {layer, number} & set(self.wanted):
            return
        try:
            self.layers[layer] = maps_of(call(), self.model, self.asked)
        except CannotShowError as error:
            self.refuse(layer, str(error))

    def check(self) -> None:
        """Raise where something that is wanted is not there."""
        known = ", ".join(f"{index}: {name}" for index, name in enumerate(self.names))
        for layer in self.wanted or ():
            name = self.names[layer] if layer in range(len(self.names)) else layer
            if name in self.left_out:
                raise ValueError(f"{name} cannot be shown: {self.left_out[str(name)]}")
            if name not in self.layers:
                raise ValueError(f"the model has no attention {layer!r}; it has {known or 'none'}")
        if not self.layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise ValueError(
                f"{type(self.model).__name__} holds no attention that can be shown"
                + (f" ({why})" if why else "")
                + ": looked for were mechanisms of foveate with weights, PyTorch's "
                "scaled_dot_product_attention and MultiheadAttention, and timm's attention"
            )
