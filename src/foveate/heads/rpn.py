"""Region proposals: of every anchor, whether any object is there and where it lies.

    y = relu(3x3 * p),   logits = W_c y + b_c,   offsets = W_r y + b_r           for every map
    loss = (sum over sampled anchors of cross entropy + sum |offsets - encode|_1) / sampled

Of an image 256 anchors are sampled, at most half of them for objects. Proposals: the best of each
map, clipped to the image, the best of what overlaps by 0.7 within a map.

Shapes: maps (B, in_channels, h, w), the finest first, to logits (B, A, h, w) and offsets
(B, A 4, h, w).

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497.
Published code: open-mmlab/mmdetection v3.3.0 ``RPNHead`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from foveate._distributed import mean_over_processes
from foveate.heads._anchor_head import AnchorHead, Images, Outputs, Target, sums_by_map
from foveate.heads.anchors import Anchors
from foveate.heads.boxes import Assigner, decode, encode, sample
from foveate.published import rename

RPN_ANCHORS = Anchors((4, 8, 16, 32, 64), (8.0,))
"""Of 32 to 512 pixels, three a cell."""

_SAMPLED = 256  # anchors of an image
_SHARE = 0.5  # of them that may be for objects
_OVERLAP = 0.7  # of two proposals of a map, from which the better one is kept


class RPNHead(AnchorHead):
    """One convolution, and two on it.

    Args:
        in_channels: channels of every map.
        dim: channels of the first convolution.
        anchors: around every cell.
        beta: below which distances count squared, as in the published Cascade R-CNN (1/9); 0 for
            nowhere.
        inside_only: whether anchors that stick out of the image count neither way, likewise.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int = 256,
        anchors: Anchors = RPN_ANCHORS,
        beta: float = 0.0,
        inside_only: bool = False,
    ) -> None:
        super().__init__(in_channels, anchors, Assigner(0.7, 0.3, 0.3), inside_only=inside_only)
        self.beta = beta
        self.rpn_conv = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.rpn_cls = nn.Conv2d(dim, anchors.per_cell, 1)
        self.rpn_reg = nn.Conv2d(dim, anchors.per_cell * 4, 1)
        for module in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)

    def of_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.rpn_conv(x))
        return self.rpn_cls(y), self.rpn_reg(y)

    def loss(
        self, outputs: Outputs, targets: Sequence[Target], images: Images
    ) -> dict[str, Tensor]:
        """``"loss_objectness"`` and ``"loss_rpn_box_reg"``, one number a map each."""
        boxes = [target["boxes"] for target in targets]
        grid, chosen, wanted = self.assigned(outputs, boxes, images)
        logits = torch.cat(self.by_anchor(outputs.logits, 1), 1)[..., 0]
        offsets = torch.cat(self.by_anchor(outputs.offsets, 4), 1)
        counted, found = torch.zeros_like(logits), torch.zeros_like(chosen, dtype=torch.bool)
        number = 0
        for image, of_image in enumerate(chosen):
            positive, negative = sample(of_image, _SAMPLED, _SHARE)
            found[image, positive] = True
            counted[image, positive] = counted[image, negative] = 1
            number += max(len(positive), 1) + max(len(negative), 1)
        number = mean_over_processes(number, like=logits)
        entropy = F.binary_cross_entropy_with_logits(
            logits, found.to(logits.dtype), counted, reduction="none"
        )
        image, which = found.nonzero(as_tuple=True)
        goal = encode(torch.cat(grid)[which], wanted[image, which])
        distance = F.smooth_l1_loss(
            offsets[image, which], goal.to(offsets.dtype), beta=self.beta, reduction="none"
        )
        distances = torch.zeros_like(entropy).index_put((image, which), distance.sum(-1))
        return {
            "loss_objectness": sums_by_map(entropy, grid) / number,
            "loss_rpn_box_reg": sums_by_map(distances, grid) / number + 0 * offsets.sum(),
        }

    @torch.no_grad()
    def propose(
        self, outputs: Outputs, images: Images, *, of_map: int, number: int
    ) -> list[Target]:
        """Of each image the ``"boxes"`` and ``"scores"`` where objects may be, the best first.

        Args:
            outputs: what :meth:`forward` gives.
            images: sizes of the images.
            of_map: at most so many of a map are looked at.
            number: at most so many of an image are given.
        """
        grid = self.anchors.grid(outputs.sizes, outputs.logits[0].device)
        scores = [x[..., 0].sigmoid() for x in self.by_anchor(outputs.logits, 1)]
        offsets = self.by_anchor(outputs.offsets, 4)
        found = []
        for image, size in enumerate(images.sizes):
            best, boxes, maps = [], [], []
            for level, anchors in enumerate(grid):
                score, order = scores[level][image].sort(descending=True, stable=True)
                order = order[:of_map]
                best.append(score[:of_map])
                boxes.append(decode(anchors[order], offsets[level][image, order], image=size))
                maps.append(torch.full_like(order, level))
            score, box, level = torch.cat(best), torch.cat(boxes), torch.cat(maps)
            some = (box[:, 2:] > box[:, :2]).all(1)
            score, box, level = score[some], box[some], level[some]
            kept = batched_nms(box.float(), score.float(), level, _OVERLAP)[:number]
            found.append({"boxes": box[kept], "scores": score[kept]})
        return found

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmdetection's head, with or without the model's name for it."""
        return rename(state, [(r"^rpn_head\.", "")])
