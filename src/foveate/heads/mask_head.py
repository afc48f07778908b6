"""Which pixels of a region are the object's: convolutions, one transposed, a class each.

    logits = W relu(deconv(conv^n(x))) + b           conv = relu(3x3), deconv 2x2 with stride 2
    loss = mean cross entropy of the class's logits and the object's mask within the region

A mask is put into the image by bilinear interpolation at pixels' centres, on the box as it is.
(Torchvision widens mask and box by a cell and cuts the box to integers.)

Shapes: x (N, in_channels, s, s) to logits (N, num_classes, 2 s, 2 s).

Paper: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870.
Published code: open-mmlab/mmdetection v3.3.0 ``FCNMaskHead`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from foveate._distributed import mean_over_processes
from foveate.arguments import positive
from foveate.heads._layers import ConvAct, check_maps
from foveate.published import rename


class MaskHead(nn.Module):
    """Convolutions to twice the size, and a mask for every class.

    Args:
        in_channels: channels of what lies within a region.
        num_classes: classes, background not among them.
        num_convs: convolutions.
        dim: channels of all.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, num_convs: int = 4, dim: int = 256
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = positive(num_classes, "num_classes")
        positive(num_convs, "num_convs")
        self.convs = nn.Sequential(
            *(ConvAct(dim if index else in_channels, dim) for index in range(num_convs))
        )
        self.upsample = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.conv_logits = nn.Conv2d(dim, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_maps([x], [self.in_channels])
        return self.conv_logits(F.relu(self.upsample(self.convs(x))))

    def loss(self, logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        """Of the masks ``logits`` of regions of classes ``labels``; 0 without regions.

        Args:
            logits: ``(N, num_classes, h, w)``.
            labels: ``(N,)``.
            wanted: ``(N, h, w)``, 0 or 1.
        """
        number = mean_over_processes(len(labels), like=logits)
        if not len(labels):
            return 0 * logits.sum()
        mine = logits[torch.arange(len(labels), device=logits.device), labels]
        mean = F.binary_cross_entropy_with_logits(mine, wanted.to(mine.dtype))
        return mean * (len(labels) / number)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmdetection's head, with or without the model's names for it."""
        return rename(state, [(r"^(roi_head\.)?mask_head\.(\d\.)?", "")])


def masks_within(masks: Tensor, boxes: Tensor, which: Tensor, size: int) -> Tensor:
    """Of objects' masks what lies within regions, 0 or 1.

    Args:
        masks: of the objects, ``(G, H, W)``.
        boxes: the regions, ``(N, 4)``.
        which: the object of each, ``(N,)``.
        size: side of the result ``(N, size, size)``.
    """
    rois = torch.cat([which[:, None].to(boxes.dtype), boxes], 1)
    within = roi_align(masks[:, None].to(boxes.dtype), rois, size, 1.0, 0, aligned=True)
    return (within[:, 0] >= 0.5).to(boxes.dtype)


def paste(masks: Tensor, boxes: Tensor, image: Sequence[int]) -> Tensor:
    """Masks of regions in the image, ``(N, H, W)``; zero outside.

    Args:
        masks: probabilities ``(N, h, w)``.
        boxes: the regions, ``(N, 4)``.
        image: its height and width.
    """
    height, width = image
    pasted = masks.new_zeros(len(masks), height, width)
    for index, (mask, box) in enumerate(zip(masks, boxes.to(masks.dtype), strict=True)):
        x1, x2, column = _span(box[0], box[2], mask.shape[1], width)
        y1, y2, row = _span(box[1], box[3], mask.shape[0], height)
        grid = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1)[None]
        pasted[index, y1:y2, x1:x2] = F.grid_sample(mask[None, None], grid, align_corners=False)[
            0, 0
        ]
    return pasted


def _span(first: Tensor, last: Tensor, cells: int, pixels: int) -> tuple[int, int, Tensor]:
    """The pixels that a side of a mask reaches, half a cell out, and where they lie in -1 to 1."""
    reach = (last - first) / (2 * cells)
    start = int((first - reach).floor().clamp(0, pixels))
    stop = int((last + reach).ceil().clamp(start, pixels))
    centres = torch.arange(start, stop, device=first.device, dtype=first.dtype) + 0.5
    return start, stop, (centres - first) / (last - first) * 2 - 1
