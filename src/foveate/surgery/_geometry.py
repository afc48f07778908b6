"""A map out of the tokens of a place and back, at whatever size the images have now.

Maps show their height and width. Tokens do not: these follow from the size of the images, which is
noted where they enter the model. Where tokens stand in another order, in cut windows or with
padding between them, the order is read off a trace of the model at that size, once a size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.layout import is_known
from foveate.surgery._origins import tensors_in
from foveate.surgery.token_map import TokenMap


@dataclass
class ImageSize:
    """Height and width of the images that the model was given last."""

    size: tuple[int, int] | None = None

    def note(self, args: Any, kwargs: Any) -> None:
        """Take the size of the first image among a module's arguments."""
        for value in tensors_in((args, kwargs)):
            if value.dim() == 4 and value.is_floating_point():
                self.size = (value.shape[2], value.shape[3])
                return

    def before(self, module: Any, args: Any, kwargs: Any) -> None:
        """A forward pre-hook."""
        self.note(args, kwargs)


@dataclass(eq=False)
class _Order:
    """Where the cells of one size of image are.

    Attributes:
        size: height and width of the map.
        windows: by how much the batch axis grew.
        order: slot of each cell.
        inverse: what each slot holds: a cell, or ``H * W`` and on for the other slots.
        others: slots that hold no cell.
    """

    size: tuple[int, int]
    windows: int
    order: Tensor
    inverse: Tensor
    others: Tensor


@dataclass(eq=False)
class Geometry:
    """How the tensors of one place hold a map.

    Attributes:
        path: the module whose tensors these are.
        at_output: whether they are what it gives; else what it takes.
        axis: which axis has the channels, counted from the front.
        rank: how many axes there are.
        prefix: how many class and register tokens stand before the cells.
        is_map: whether height and width are two axes of the tensor.
        plain: whether cells lie row by row behind the prefix tokens.
        stride: pixels of the image per cell, down and across.
        image: the size of the images now.
        orders: by image size and tokens a window, where they are not plain.
    """

    path: str
    at_output: bool
    axis: int
    rank: int
    prefix: int
    is_map: bool
    plain: bool
    stride: tuple[float, float]
    image: ImageSize
    orders: dict[tuple[int, int, int], _Order] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: str, maps: Sequence[TokenMap], images: tuple[int, int], noted: ImageSize,
        *, at_output: bool,
    ) -> Geometry:  # fmt: skip
        """The geometry of a place whose tensors held ``maps`` for ``images`` (H, W)."""
        first = maps[0]
        stride = (images[0] / first.size[0], images[1] / first.size[1])
        made = cls(
            path, at_output, first.axis, len(first.shape), len(first.prefix),
            all(m.is_map for m in maps), all(m.order is None for m in maps), stride, noted,
        )  # fmt: skip
        made.learn(maps, images)
        return made

    @property
    def needs_orders(self) -> bool:
        """Whether each size of image must be traced."""
        return not self.is_map and not self.plain

    def learn(self, maps: Sequence[TokenMap], images: tuple[int, int]) -> None:
        """Remember how cells lie for ``images`` (H, W)."""
        for found in maps:
            height, width = found.size
            order = found.order
            if order is None:
                order = torch.arange(len(found.prefix), len(found.prefix) + height * width)
            free = torch.ones(found.slots, dtype=torch.bool)
            free[order] = False
            others = free.nonzero().flatten()
            inverse = torch.empty(found.slots, dtype=torch.long)
            inverse[order] = torch.arange(len(order))
            inverse[others] = torch.arange(len(others)) + len(order)
            key = (*images, found.slots // found.windows)
            self.orders[key] = _Order(found.size, found.windows, order, inverse, others)

    def knows(self, images: tuple[int, int]) -> bool:
        """Whether cells of such images can be found without another look at the model."""
        return not self.needs_orders or any(key[:2] == images for key in self.orders)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None, _Order | None]:
        """``x`` as a map (B, C, H, W), the tokens that are not cells, and how to go back."""
        if self.is_map:
            return (x if self.axis == 1 else x.permute(0, 3, 1, 2)), None, None
        tokens = x.movedim(self.axis, -1) if self.axis != self.rank - 1 else x
        if self.plain:
            height, width = self._plain_size(tokens.shape[1] - self.prefix)
            cells = tokens[:, self.prefix :].unflatten(1, (height, width))
            others = tokens[:, : self.prefix] if self.prefix else None
            return cells.permute(0, 3, 1, 2), others, None
        known = self._order(tokens)
        tokens = self._slots(tokens, known)
        cells = tokens[:, known.order.to(x.device)].unflatten(1, known.size)
        others = tokens[:, known.others.to(x.device)] if len(known.others) else None
        return cells.permute(0, 3, 1, 2), others, known

    def join(
        self, cells: Tensor, others: Tensor | None, known: _Order | None, like: Tensor
    ) -> Tensor:
        """The inverse of :meth:`split`, in the shape of ``like``."""
        if self.is_map:
            return cells if self.axis == 1 else cells.permute(0, 2, 3, 1)
        tokens = cells.permute(0, 2, 3, 1).flatten(1, 2)
        if known is None:
            tokens = tokens if others is None else torch.cat([others, tokens], 1)
        else:
            tokens = tokens if others is None else torch.cat([tokens, others], 1)
            tokens = tokens[:, known.inverse.to(like.device)]
        if self.axis == self.rank - 1:
            return tokens.reshape(like.shape)
        return tokens.reshape(like.movedim(self.axis, -1).shape).movedim(-1, self.axis)

    def sequence(self, x: Tensor) -> tuple[Tensor, _Order | None]:
        """All tokens of a sample ``(B, S, C)``: what is no cell first, then cells row by row."""
        cells, others, known = self.split(x)
        tokens = cells.permute(0, 2, 3, 1).flatten(1, 2)
        return (tokens if others is None else torch.cat([others, tokens], 1)), known

    def unsequence(self, tokens: Tensor, known: _Order | None, like: Tensor) -> Tensor:
        """The inverse of :meth:`sequence`."""
        cells, others, _ = self.split(like)
        number = 0 if others is None else others.shape[1]
        cells = tokens[:, number:].unflatten(1, cells.shape[2:]).permute(0, 3, 1, 2)
        return self.join(cells, tokens[:, :number] if number else None, known, like)

    @staticmethod
    def _slots(tokens: Tensor, known: _Order) -> Tensor:
        batch = tokens.shape[0] // known.windows
        return tokens.reshape(batch, len(known.inverse), tokens.shape[-1])

    def _order(self, tokens: Tensor) -> _Order:
        inner = tokens.shape[1:-1].numel()
        key = (*self._image(), inner)
        if key not in self.orders:
            raise RuntimeError(
                f"{self.path}: how tokens lie is not known for images of {key[0]} x {key[1]}. "
                "Call the model itself (not a part of it), outside of torch.compile, once at this "
                "size; reducing tokens (patch drop) is not possible here"
            )
        return self.orders[key]

    def _image(self) -> tuple[int, int]:
        if self.image.size is None:
            raise RuntimeError(f"{self.path}: the size of the images is not known; call the model")
        return self.image.size

    def _plain_size(self, cells: int) -> tuple[int, int]:
        """Height and width of a map of so many cells, from the size of the images."""
        image = self._image()
        if not all(is_known(side) for side in (*image, cells)):
            return image[0] // round(self.stride[0]), image[1] // round(self.stride[1])
        key = (*image, cells + self.prefix)
        if key in self.orders:
            return self.orders[key].size
        found = {
            size
            for stride in self._strides()
            for size in itertools.product(
                *({int(a / s), -int(-a // s)} for a, s in zip(image, stride, strict=True))
            )
            if size[0] * size[1] == cells
        }
        if len(found) != 1:
            raise RuntimeError(
                f"{self.path}: {cells} tokens do not make a map of images of {image[0]} x "
                f"{image[1]} at {self.stride[0]:g} x {self.stride[1]:g} pixels a token; tokens "
                "that were dropped on the way (patch drop) leave no map"
                if not found
                else f"{self.path}: {cells} tokens may be a map of any of {sorted(found)}; "
                "use images whose sides the patches divide"
            )
        return found.pop()

    def _strides(self) -> set[tuple[float, float]]:
        """Pixels a cell of every size of map that this place was seen with."""
        return {
            (key[0] / known.size[0], key[1] / known.size[1]) for key, known in self.orders.items()
        }
