"""RetinaNet's head: of every anchor, which classes it is and where its object lies.

    logits = W_c * conv^n(p),   offsets = W_r * conv'^n(p)          conv = relu(3x3), for every map
    loss = (sum focal(logits, class) + sum |offsets - encode(anchor, object)|_1) / number
    focal(p) = -alpha (1 - p)^gamma ln p for the anchor's class,  -(1 - alpha) p^gamma ln (1 - p)
               for every other one                                  alpha = 1/4, gamma = 2

``number`` is that of the anchors that are for an object, over the batch, one at least for each
image; where processes train together, over the batches of all. (Torchvision divides each image by
its own and takes the mean.) Detections: scores above the threshold, the 1000 best of each map,
boxes clipped to the image, the best of what overlaps within a class, 100 an image.

Shapes: maps (B, in_channels, h, w), the finest first, to logits (B, A K, h, w) and offsets
(B, A 4, h, w), anchor by anchor.

Paper: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
Published code: open-mmlab/mmdetection v3.3.0 ``RetinaHead`` (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, sigmoid_focal_loss

from foveate._distributed import mean_over_processes
from foveate.arguments import positive
from foveate.heads._anchor_head import AnchorHead, Images, Outputs, Target, sums_by_map
from foveate.heads._layers import ConvAct
from foveate.heads.anchors import Anchors, octaves
from foveate.heads.boxes import Assigner, decode, encode
from foveate.published import rename

RETINA_ANCHORS = Anchors((8, 16, 32, 64, 128), octaves(4.0, 3))
"""Of 32 to 813 pixels, nine a cell."""

_PRIOR = 0.01  # how probable a class is at the start


class RetinaHead(AnchorHead):
    """Two branches of convolutions, shared by all maps.

    Args:
        in_channels: channels of every map.
        num_classes: classes, background not among them.
        dim: channels of the branches.
        num_convs: convolutions of each branch.
        anchors: around every cell.
        score_threshold: what a detection's score must exceed.
        nms_threshold: overlap from which the better of two detections of a class alone is kept.
        detections: of an image, at most.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 256,
        num_convs: int = 4,
        anchors: Anchors = RETINA_ANCHORS,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__(in_channels, anchors, Assigner(0.5, 0.4))
        self.num_classes = positive(num_classes, "num_classes")
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections = positive(detections, "detections")
        widths = [in_channels] + [dim] * positive(num_convs, "num_convs")
        pairs = list(pairwise(widths))
        self.cls_convs = nn.Sequential(*(ConvAct(*pair) for pair in pairs))
        self.reg_convs = nn.Sequential(*(ConvAct(*pair) for pair in pairs))
        self.retina_cls = nn.Conv2d(dim, anchors.per_cell * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(dim, anchors.per_cell * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def of_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.retina_cls(self.cls_convs(x)), self.retina_reg(self.reg_convs(x))

    def loss(
        self, outputs: Outputs, targets: Sequence[Target], images: Images
    ) -> dict[str, Tensor]:
        """``"classification"`` and ``"bbox_regression"``, one number a map each."""
        boxes = [target["boxes"] for target in targets]
        grid, chosen, wanted = self.assigned(outputs, boxes, images)
        logits = torch.cat(self.by_anchor(outputs.logits, self.num_classes), 1)
        offsets = torch.cat(self.by_anchor(outputs.offsets, 4), 1)
        found = chosen > 0
        classes = torch.zeros_like(logits)
        for image, target in enumerate(targets):
            (which,) = found[image].nonzero(as_tuple=True)
            classes[image, which, target["labels"][chosen[image, which] - 1]] = 1
        focal = sigmoid_focal_loss(logits, classes, alpha=0.25, gamma=2.0).sum(-1)
        image, which = found.nonzero(as_tuple=True)
        anchors = torch.cat(grid)[which]
        distance = (offsets[image, which] - encode(anchors, wanted[image, which])).abs().sum(-1)
        distances = torch.zeros_like(focal).index_put((image, which), distance.to(focal.dtype))
        number = mean_over_processes(found.sum(1).clamp_min(1).sum(), like=logits)
        return {
            "classification": sums_by_map(focal.masked_fill(chosen < 0, 0), grid) / number,
            # What is added is zero, so that no parameter is without a gradient.
            "bbox_regression": sums_by_map(distances, grid) / number + 0 * offsets.sum(),
        }

    def detect(self, outputs: Outputs, images: Images) -> list[Target]:
        """Of each image the ``"boxes"``, ``"scores"`` and ``"labels"``, the best first."""
        grid = self.anchors.grid(outputs.sizes, outputs.logits[0].device)
        scores = [x.sigmoid() for x in self.by_anchor(outputs.logits, self.num_classes)]
        offsets = self.by_anchor(outputs.offsets, 4)
        return [
            self._of_image([x[i] for x in scores], [x[i] for x in offsets], grid, size)
            for i, size in enumerate(images.sizes)
        ]

    def _of_image(
        self,
        scores: Sequence[Tensor],
        offsets: Sequence[Tensor],
        grid: Sequence[Tensor],
        size: Sequence[int],
    ) -> Target:
        best, labels, boxes = [], [], []
        for of_map, shift, anchors in zip(scores, offsets, grid, strict=True):
            which, label = (of_map > self.score_threshold).nonzero(as_tuple=True)
            score, order = of_map[which, label].sort(descending=True, stable=True)
            order = order[:1000]
            best.append(score[:1000])
            labels.append(label[order])
            boxes.append(decode(anchors[which[order]], shift[which[order]], image=size))
        score, label, box = torch.cat(best), torch.cat(labels), torch.cat(boxes)
        some = (box[:, 2:] > box[:, :2]).all(1)
        score, label, box = score[some], label[some], box[some]
        kept = batched_nms(box.float(), score.float(), label, self.nms_threshold)
        kept = kept[: self.detections]
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmdetection's head, with or without the model's name for it."""
        return rename(state, [(r"^bbox_head\.", "")])
