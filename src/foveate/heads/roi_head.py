"""Regions looked at one by one, in one stage or several, each starting where the last one ended.

    r_1 = proposals,   (logits_k, offsets_k) = head_k(pool(maps, r_k)),   r_{k+1} = lead(r_k)
    scores = softmax(mean_k logits_k),   boxes from the last stage's offsets
    masks = mean_k sigmoid(mask_k(pool(maps, boxes)))

``lead`` follows the offsets of the likeliest class, or of the object's in training. With one stage
this is Faster and Mask R-CNN. Where Detectron2 averages probabilities, this averages logits, as
published.

In training a stage samples 512 regions of an image, objects' own boxes among them, at most a
quarter of them for objects. Later stages start from all that were sampled but those boxes.

Paper: Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018, arXiv:1712.00726.
Published code: open-mmlab/mmdetection v3.3.0 ``StandardRoIHead``, ``CascadeRoIHead`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from foveate.heads._anchor_head import Images, Target
from foveate.heads._layers import single
from foveate.heads.box_head import BoxHead
from foveate.heads.boxes import Assigner, decode, sample
from foveate.heads.mask_head import MaskHead, masks_within, paste
from foveate.heads.roi_pool import numbered, pool
from foveate.published import rename

_SAMPLED = 512  # regions of an image
_SHARE = 0.25  # of them that may be for objects
_MASK_SIZE = 14  # side of what a mask head reads


class _Sampled(NamedTuple):
    """The regions of an image that a stage learns by, those for objects first."""

    boxes: Tensor  # (R, 4)
    labels: Tensor  # (R,), the last class for background
    wanted: Tensor  # (R, 4)
    objects: Tensor  # (P,), of the first P regions
    own: Tensor  # (R,), whether it is an object's own box


class RoIHead(nn.Module):
    """A box head a stage, and mask heads as many or none.

    Args:
        box_heads: one a stage.
        mask_heads: one a stage, or none at all.
        strides: of the maps that are read, the finest first.
        overlaps: from which a region is for an object, one a stage.
        weights: what each stage counts.
        low_quality: whether a stage gives every object its nearest region, from ``overlaps`` on.
        score_threshold: what a detection's score must exceed.
        nms_threshold: overlap from which the better of two detections of a class alone is kept.
        detections: of an image, at most.
    """

    def __init__(
        self,
        box_heads: Sequence[BoxHead],
        mask_heads: Sequence[MaskHead] = (),
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        overlaps: Sequence[float] = (0.5,),
        weights: Sequence[float] = (1.0,),
        low_quality: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        stages = len(box_heads)
        if {len(overlaps), len(weights), len(mask_heads) or stages} != {stages}:
            raise ValueError(
                f"{stages} stages need as many overlaps and weights, and as many mask heads or "
                f"none, got {len(overlaps)}, {len(weights)} and {len(mask_heads)}"
            )
        self.bbox_head = nn.ModuleList(box_heads)
        self.mask_head = nn.ModuleList(mask_heads)
        self.strides = tuple(strides)
        self.assigners = [Assigner(o, o, o, low_quality) for o in overlaps]
        self.weights = tuple(weights)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections = detections
        self.num_classes = box_heads[0].num_classes

    def read(
        self, stage: int, maps: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits and offsets of a stage for all images' ``boxes``, one after the other."""
        head = self.bbox_head[stage]
        logits, offsets = head(pool(maps, numbered(boxes), self.strides, head.size))
        return single(logits), single(offsets)

    def loss(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        images: Images,
    ) -> dict[str, Tensor]:
        """``"loss_classifier"``, ``"loss_box_reg"`` and ``"loss_mask"``, each stage's if several.

        Args:
            maps: of the pyramid, as many as strides.
            proposals: ``(N_i, 4)`` of each image.
            targets: its objects.
            images: its size.
        """
        losses: dict[str, Tensor] = {}
        for stage, weight in enumerate(self.weights):
            sampled = [
                self._sampled(stage, boxes, target)
                for boxes, target in zip(proposals, targets, strict=True)
            ]
            boxes = [of_image.boxes for of_image in sampled]
            logits, offsets = self.read(stage, maps, boxes)
            labels = torch.cat([of_image.labels for of_image in sampled])
            wanted = torch.cat([of_image.wanted for of_image in sampled])
            head = self.bbox_head[stage]
            entropy, distance = head.loss(logits, offsets, torch.cat(boxes), labels, wanted)
            end = f"_{stage + 1}" if len(self.weights) > 1 else ""
            losses[f"loss_classifier{end}"] = weight * entropy
            losses[f"loss_box_reg{end}"] = weight * distance
            if len(self.mask_head):
                losses[f"loss_mask{end}"] = weight * self._mask_loss(stage, maps, sampled, targets)
            if stage + 1 < len(self.weights):
                with torch.no_grad():
                    proposals = self._next(stage, sampled, logits, offsets, images)
        return losses

    def _sampled(self, stage: int, boxes: Tensor, target: Target) -> _Sampled:
        objects = target["boxes"].to(boxes.dtype)
        chosen, _ = self.assigners[stage](objects, boxes)
        own = torch.arange(1, len(objects) + 1, device=boxes.device)
        chosen, boxes = torch.cat([own, chosen]), torch.cat([objects, boxes])
        positive, negative = sample(chosen, _SAMPLED, _SHARE)
        which = torch.cat([positive, negative])
        of_positive = chosen[positive] - 1
        labels = torch.full_like(which, self.num_classes)
        labels[: len(positive)] = target["labels"][of_positive]
        wanted = torch.zeros_like(boxes[which])
        wanted[: len(positive)] = objects[of_positive]
        return _Sampled(boxes[which], labels, wanted, of_positive, which < len(objects))

    def _mask_loss(
        self,
        stage: int,
        maps: Sequence[Tensor],
        sampled: Sequence[_Sampled],
        targets: Sequence[Target],
    ) -> Tensor:
        boxes = [of_image.boxes[: len(of_image.objects)] for of_image in sampled]
        logits = self._masks(stage, maps, boxes)
        labels = torch.cat([of_image.labels[: len(of_image.objects)] for of_image in sampled])
        wanted = [
            masks_within(target["masks"], b, of_image.objects, logits.shape[-1])
            for of_image, b, target in zip(sampled, boxes, targets, strict=True)
        ]
        return self.mask_head[stage].loss(logits, labels, torch.cat(wanted))

    def _masks(self, stage: int, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        pooled = pool(maps, numbered(boxes), self.strides, _MASK_SIZE)
        return single(self.mask_head[stage](pooled))

    def _next(
        self,
        stage: int,
        sampled: Sequence[_Sampled],
        logits: Tensor,
        offsets: Tensor,
        images: Images,
    ) -> list[Tensor]:
        """Where the next stage starts: what was sampled, led on, without objects' own boxes."""
        head = self.bbox_head[stage]
        counts = [len(of_image.boxes) for of_image in sampled]
        boxes = []
        for of_image, said, shift, size in zip(
            sampled, logits.split(counts), offsets.split(counts), images.sizes, strict=True
        ):
            background = of_image.labels == self.num_classes
            labels = torch.where(background, said[:, :-1].argmax(1), of_image.labels)
            boxes.append(head.lead(of_image.boxes, shift, labels, size)[~of_image.own])
        return boxes

    def detect(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], images: Images
    ) -> list[Target]:
        """What is found in each image, the best first.

        Args:
            maps: of the pyramid, as many as strides.
            proposals: ``(N_i, 4)`` of each image.
            images: its size.

        Returns:
            ``"boxes"`` ``(N, 4)``, ``"scores"`` and ``"labels"`` of each image; with mask heads
            ``"masks"`` ``(N, 1, H, W)``, probabilities.
        """
        counts = [len(boxes) for boxes in proposals]
        boxes, total = list(proposals), None
        for stage, head in enumerate(self.bbox_head):
            logits, offsets = self.read(stage, maps, boxes)
            total = logits if total is None else total + logits
            if stage + 1 < len(self.bbox_head):
                parts = zip(
                    boxes, logits.split(counts), offsets.split(counts), images.sizes, strict=True
                )
                boxes = [head.refine(*part) for part in parts]
        scores = (total / len(self.bbox_head)).softmax(1)
        stds = self.bbox_head[-1].stds
        found = []
        for b, score, shift, size in zip(
            boxes, scores.split(counts), offsets.split(counts), images.sizes, strict=True
        ):
            led = decode(b[:, None], shift.unflatten(1, (-1, 4)), stds, size)
            found.append(self._best(led, score[:, :-1]))
        if len(self.mask_head):
            self._add_masks(maps, found, images)
        return found

    def _best(self, boxes: Tensor, scores: Tensor) -> Target:
        """The detections among regions ``(N, K or 1, 4)`` with scores ``(N, K)``."""
        which, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        score = scores[which, label]
        box = boxes.expand(-1, scores.shape[1], 4)[which, label]
        kept = batched_nms(box.float(), score.float(), label, self.nms_threshold)
        kept = kept[: self.detections]
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}

    def _add_masks(self, maps: Sequence[Tensor], found: list[Target], images: Images) -> None:
        boxes = [of_image["boxes"] for of_image in found]
        each = [self._masks(stage, maps, boxes).sigmoid() for stage in range(len(self.mask_head))]
        masks = torch.stack(each).mean(0).split([len(b) for b in boxes])
        for of_image, mask, size in zip(found, masks, images.sizes, strict=True):
            label = of_image["labels"]
            mine = mask[torch.arange(len(label), device=label.device), label]
            of_image["masks"] = paste(mine, of_image["boxes"], size)[:, None]

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmdetection's, where the heads of one stage have no number."""
        rules = [(r"^roi_head\.", ""), (r"^(bbox|mask)_head\.(?!\d)", r"\1_head.0.")]
        return rename(state, rules)
