"""What lies within boxes, as maps of one size, read from the map of a pyramid that suits each.

    level = floor(log2(sqrt(w h) / 56 + 1e-6)),   from 0 to the coarsest

Cells' centres lie half a pixel in (``aligned``), and each cell of the result averages as many
points as it covers cells. Torchvision's ``MultiScaleRoIAlign`` does neither, which costs published
weights precision without a word.

Paper: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870.
Published code: open-mmlab/mmdetection v3.3.0 ``SingleRoIExtractor`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from foveate.heads._layers import single

_FINEST = 56  # pixels, below which a box is read from the finest map, and up to twice that


def numbered(boxes: Sequence[Tensor]) -> Tensor:
    """The boxes ``(N_i, 4)`` of images as ``(N, 5)``, each after the number of its image."""
    return torch.cat(
        [torch.cat([torch.full_like(b[:, :1], image), b], 1) for image, b in enumerate(boxes)]
    )


def levels(boxes: Tensor, number: int) -> Tensor:
    """Which of ``number`` maps, the finest first, each of ``boxes`` ``(N, 4)`` is read from."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area.sqrt() / _FINEST + 1e-6).log2().floor().clamp(0, number - 1).long()


def pool(maps: Sequence[Tensor], rois: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """What lies within boxes.

    Args:
        maps: ``(B, C, h, w)`` each, the finest first.
        rois: ``(N, 5)``: the image's number, x1, y1, x2, y2 in pixels of the image.
        strides: of the maps.
        size: side of the result.

    Returns:
        ``(N, C, size, size)``.
    """
    dtype, maps = maps[0].dtype, [single(x) for x in maps]
    rois = rois.to(maps[0].dtype)
    level = levels(rois[:, 1:], len(maps))
    parts, order = [], []
    for index, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        (which,) = (level == index).nonzero(as_tuple=True)
        parts.append(roi_align(x, rois[which], size, 1 / stride, 0, aligned=True))
        order.append(which)
    return torch.cat(parts)[torch.cat(order).argsort()].to(dtype)
