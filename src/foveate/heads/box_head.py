"""What is in a region, and where in it: convolutions, fully connected layers, two linear ones.

    y = relu(fc(... relu(fc(flatten(conv^m(x))))))          conv = relu(norm(3x3))
    logits = W_c y + b_c,   offsets = W_r y + b_r
    loss = (sum cross entropy + sum distance(offsets, encode(region, object))) / regions

Two fully connected layers and no convolution in Faster and Mask R-CNN; four convolutions and one
layer in the Cascade Mask R-CNN of Swin, NAT, CSWin and Slide. **Background is the last class**,
number ``num_classes`` (torchvision's is the first), and has no offsets.

Shapes: x (N, in_channels, size, size) to logits (N, num_classes + 1) and offsets
(N, 4 num_classes), or (N, 4) where all classes share them.

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497.
Published code: open-mmlab/mmdetection v3.3.0 ``ConvFCBBoxHead`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from foveate._distributed import mean_over_processes
from foveate.arguments import one_of, positive
from foveate.heads._layers import ConvNormAct, check_maps
from foveate.heads.boxes import decode, encode
from foveate.published import rename

_GIOU_WEIGHT = 10.0
_DISTANCES = ("l1", "smooth_l1", "giou")


class BoxHead(nn.Module):
    """Convolutions, fully connected layers, and what is said of a region.

    Args:
        in_channels: channels of what lies within a region.
        num_classes: classes, background not among them.
        num_convs: convolutions.
        num_fcs: fully connected layers.
        conv_dim: channels of the convolutions.
        dim: channels of the fully connected layers.
        size: side of what lies within a region.
        class_agnostic: whether all classes share the offsets.
        stds: what the offsets are divided by.
        distance: of offsets, ``"l1"`` or ``"smooth_l1"``; or ``"giou"``, of the boxes that they
            lead to, which counts 10 times as published.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int = 0,
        num_fcs: int = 2,
        conv_dim: int = 256,
        dim: int = 1024,
        size: int = 7,
        class_agnostic: bool = False,
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        distance: str = "l1",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = positive(num_classes, "num_classes")
        self.size = positive(size, "size")
        self.stds = tuple(stds)
        self.distance = one_of(distance, _DISTANCES, "distance")
        self.shared_convs = nn.Sequential(
            *(ConvNormAct(conv_dim if i else in_channels, conv_dim, 3) for i in range(num_convs))
        )
        flat = (conv_dim if num_convs else in_channels) * size**2
        self.shared_fcs = nn.ModuleList(
            nn.Linear(dim if i else flat, dim) for i in range(positive(num_fcs, "num_fcs"))
        )
        self.fc_cls = nn.Linear(dim, num_classes + 1)
        self.fc_reg = nn.Linear(dim, 4 if class_agnostic else 4 * num_classes)
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_maps([x], [self.in_channels])
        y = self.shared_convs(x).flatten(1)
        for layer in self.shared_fcs:
            y = F.relu(layer(y))
        return self.fc_cls(y), self.fc_reg(y)

    def offsets_of(self, offsets: Tensor, labels: Tensor) -> Tensor:
        """Of each region the offsets ``(N, 4)`` of its class, from those of all."""
        by_class = offsets.unflatten(1, (-1, 4))
        which = labels if by_class.shape[1] > 1 else labels * 0
        return by_class.gather(1, which[:, None, None].expand(-1, 1, 4))[:, 0]

    def refine(
        self, boxes: Tensor, logits: Tensor, offsets: Tensor, image: Sequence[int]
    ) -> Tensor:
        """The boxes ``(N, 4)`` that the offsets of the likeliest class, not background, lead to."""
        return self.lead(boxes, offsets, logits[:, :-1].argmax(1), image)

    def lead(self, boxes: Tensor, offsets: Tensor, labels: Tensor, image: Sequence[int]) -> Tensor:
        """The boxes ``(N, 4)`` that the offsets of a class lead to, clipped to the image."""
        return decode(boxes, self.offsets_of(offsets, labels), self.stds, image)

    def loss(
        self, logits: Tensor, offsets: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the class and of the place.

        Args:
            logits: ``(N, num_classes + 1)``.
            offsets: as :meth:`forward` gives them.
            boxes: the regions, ``(N, 4)``.
            labels: their classes, ``num_classes`` for background.
            wanted: the boxes of their objects, ``(N, 4)``; of background anything.
        """
        number = mean_over_processes(max(len(labels), 1), like=logits)
        entropy = F.cross_entropy(logits, labels, reduction="sum") / number
        found = labels < self.num_classes
        mine = self.offsets_of(offsets, labels.where(found, 0))[found]
        boxes, wanted = boxes[found], wanted[found]
        if self.distance == "giou":
            led = decode(boxes, mine, self.stds)
            distance = _GIOU_WEIGHT * generalized_box_iou_loss(led, wanted, "sum", eps=1e-6)
        else:
            beta = 1.0 if self.distance == "smooth_l1" else 0.0
            goal = encode(boxes, wanted, self.stds).to(mine.dtype)
            distance = F.smooth_l1_loss(mine, goal, beta=beta, reduction="sum")
        # What is added is zero, so that no parameter is without a gradient.
        return entropy, distance / number + 0 * offsets.sum()

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmdetection's head, with or without the model's names for it."""
        return rename(state, [(r"^(roi_head\.)?bbox_head\.(\d\.)?", "")])
