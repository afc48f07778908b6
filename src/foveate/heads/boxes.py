"""Boxes as offsets from other boxes, and which object each of them is for.

    encode(a, b) = ((x_b - x_a) / w_a, (y_b - y_a) / h_a, ln w_b / w_a, ln h_b / h_a) / stds

with centres x, y and sides w, h; :func:`decode` is the inverse, logarithms held to
+-ln(1000 / 16) on both sides (torchvision's: above alone).

Published code: open-mmlab/mmdetection v3.3.0 ``DeltaXYWHBBoxCoder``, ``MaxIoUAssigner``,
``RandomSampler`` (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

LARGEST_LOG = math.log(1000 / 16)
"""The most that a side's logarithm may change by."""


def encode(
    boxes: Tensor, wanted: Tensor, stds: Sequence[float] = (1, 1, 1, 1), *, pixel: float = 0.0
) -> Tensor:
    """The offsets ``(N, 4)`` that lead from ``boxes`` to ``wanted``, both x1, y1, x2, y2.

    Args:
        boxes: where from, of positive sides.
        wanted: where to, likewise.
        stds: what each offset is divided by.
        pixel: 1 if x2 and y2 are the last pixels within, as before mmdetection 2.0.
    """
    centres, sides = _centres_and_sides(boxes, pixel)
    to, to_sides = _centres_and_sides(wanted, pixel)
    offsets = torch.cat([(to - centres) / sides, (to_sides / sides).log()], -1)
    return offsets / offsets.new_tensor(stds)


def decode(
    boxes: Tensor,
    offsets: Tensor,
    stds: Sequence[float] = (1, 1, 1, 1),
    image: Sequence[int] | None = None,
    *,
    pixel: float = 0.0,
) -> Tensor:
    """Where ``offsets`` ``(..., 4)`` lead from ``boxes`` ``(..., 4)``.

    Args:
        boxes: where from: x1, y1, x2, y2.
        offsets: as :func:`encode` gives them.
        stds: what each was divided by.
        image: height and width to which boxes are clipped; None for not at all.
        pixel: 1 for weights of before mmdetection 2.0; what comes out is not moved back by half
            of it, as in mmdetection's own reading of these.
    """
    offsets = offsets * offsets.new_tensor(stds)
    centres, sides = _centres_and_sides(boxes, pixel)
    centres = centres + offsets[..., :2] * sides
    sides = sides * offsets[..., 2:].clamp(-LARGEST_LOG, LARGEST_LOG).exp()
    half = sides / 2
    boxes = torch.cat([centres - half, centres + half], -1)
    return boxes if image is None else clip_boxes_to_image(boxes, (image[0], image[1]))


def _centres_and_sides(boxes: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) / 2, last - first + pixel


@dataclass(frozen=True)
class Assigner:
    """Which object each box is for, by intersection over union.

    A box is for the object that it overlaps most, if by ``positive`` at least; it is background if
    it overlaps none by ``negative``; between them it counts neither way. With ``low_quality`` the
    boxes that overlap an object most, if by ``least`` at least, are for it whatever that is, all
    of them where several do equally; of objects that claim one box the last has it.

    Attributes:
        positive: from this overlap on.
        negative: below this one.
        least: what ``low_quality`` asks for.
        low_quality: whether every object has its nearest boxes.
    """

    positive: float
    negative: float
    least: float = 0.0
    low_quality: bool = True

    def __call__(self, objects: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """For each of ``boxes`` 1 + its object, 0 for background, -1 for neither; the overlap.

        Args:
            objects: ``(G, 4)``; all of positive area, as one without would be nearest to all.
            boxes: ``(N, 4)``.
        """
        if not len(objects) or not len(boxes):
            return boxes.new_zeros(len(boxes), dtype=torch.long), boxes.new_zeros(len(boxes))
        overlaps = box_iou(objects, boxes)
        best, which = overlaps.max(0)
        chosen = torch.full_like(which, -1)
        chosen[best < self.negative] = 0
        chosen = torch.where(best >= self.positive, which + 1, chosen)
        if self.low_quality:
            most = overlaps.amax(1, keepdim=True)
            claims = (overlaps == most) & (most >= self.least)
            order = torch.arange(1, len(objects) + 1, device=boxes.device)[:, None]
            last = (claims * order).amax(0)
            chosen = torch.where(last > 0, last, chosen)
        return chosen, best


def sample(chosen: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
    """At random at most ``number`` boxes, at most ``share`` of them for objects.

    Args:
        chosen: what an :class:`Assigner` gives, ``(N,)``.
        number: of boxes, if there are as many.
        share: of them that may be for objects.

    Returns:
        Indices of boxes for objects, and of background.
    """
    positive = _some(chosen > 0, int(number * share))
    return positive, _some(chosen == 0, number - len(positive))


def _some(mask: Tensor, number: int) -> Tensor:
    indices = mask.nonzero().flatten()
    if len(indices) <= number:
        return indices
    return indices[torch.randperm(len(indices))[:number].to(indices.device)]
