"""Anchors: boxes of fixed sizes and shapes around every cell of a map.

    cell (i, j) of stride s:   centre (s j, s i),   width s a / sqrt(r),   height s a sqrt(r)

for every ratio r = height / width and every scale a, ratios outermost, cells row by row. Strides
are fixed and nothing is rounded. (Torchvision rounds corners to integers, and takes the image's
side over the map's for the stride, which is another one where it does not divide.)

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497.
Published code: open-mmlab/mmdetection v3.3.0 ``AnchorGenerator`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Size = Sequence[int]


@dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid.

    Attributes:
        strides: of the maps, the finest first.
        scales: sides of a square anchor, in strides.
        ratios: heights over widths.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_cell(self) -> int:
        """Anchors around one cell."""
        return len(self.scales) * len(self.ratios)

    def around_zero(self, stride: int) -> Tensor:
        """The anchors ``(A, 4)`` of the cell at the origin: x1, y1, x2, y2 in pixels."""
        root = torch.tensor(self.ratios).sqrt()[:, None]
        scales = torch.tensor(self.scales)[None]
        half_width = (stride * (1 / root) * scales).flatten() / 2
        half_height = (stride * root * scales).flatten() / 2
        return torch.stack([-half_width, -half_height, half_width, half_height], 1)

    def grid(self, sizes: Sequence[Size], device: torch.device) -> list[Tensor]:
        """All anchors of maps of these sizes, one ``(h w A, 4)`` a map."""
        boxes = []
        for (height, width), stride in zip(sizes, self.strides, strict=True):
            y = stride * torch.arange(height, device=device, dtype=torch.float32)
            x = stride * torch.arange(width, device=device, dtype=torch.float32)
            y, x = (c.flatten() for c in torch.meshgrid(y, x, indexing="ij"))
            centres = torch.stack([x, y, x, y], 1)[:, None]
            boxes.append((centres + self.around_zero(stride).to(device)).flatten(0, 1))
        return boxes

    def on_image(self, sizes: Sequence[Size], image: Size, device: torch.device) -> list[Tensor]:
        """Which anchors' cells lie on an image of size ``image``: booleans ``(h w A,)`` a map."""
        flags = []
        for (height, width), stride in zip(sizes, self.strides, strict=True):
            rows = torch.arange(height, device=device) * stride < image[0]
            columns = torch.arange(width, device=device) * stride < image[1]
            cells = (rows[:, None] & columns).flatten()
            flags.append(cells.repeat_interleave(self.per_cell))
        return flags


def octaves(base: float, number: int) -> tuple[float, ...]:
    """``number`` scales from ``base`` to less than twice that, equally far apart as ratios."""
    return tuple(base * 2 ** (index / number) for index in range(number))
