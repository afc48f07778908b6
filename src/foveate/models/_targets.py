"""What a detector is given: every image and object checked, and the faulty one named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Target = dict[str, Tensor]


def check_batch(images: Sequence[Tensor], in_chans: int) -> None:
    """Refuse anything but a list of floating images ``(in_chans, H, W)``.

    Raises:
        TypeError: if it is no list, or an entry no tensor.
        ValueError: if there is none, or one's dtype or shape is wrong.
    """
    if not isinstance(images, Tensor | list | tuple):
        raise TypeError(f"expected a list of images (C, H, W), got {type(images).__name__}")
    if not len(images):
        raise ValueError("expected at least one image, got none")
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{index}] must be a torch.Tensor, got {type(image).__name__}")
        if image.dim() != 3 or image.shape[0] != in_chans or 0 in image.shape:
            raise ValueError(
                f"images[{index}] must be ({in_chans}, H, W), got {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise ValueError(
                f"images[{index}] must be of a floating dtype, got {image.dtype}; pixels of 0 to "
                "255 are divided by 255 first"
            )


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]], num_classes: int, *, masks: bool
) -> list[Target]:
    """The objects that are learnt by: the targets without those whose ``"iscrowd"`` is set.

    Raises:
        TypeError: if a target or an entry of it is of the wrong type.
        ValueError: if there is not one target an image, or an entry is of the wrong shape, a box
            empty or outside of its image, or a label out of range.
    """
    if len(targets) != len(images):
        raise ValueError(f"expected one target an image, got {len(targets)} for {len(images)}")
    return [
        _checked(f"targets[{index}]", image, target, num_classes, masks)
        for index, (image, target) in enumerate(zip(images, targets, strict=True))
    ]


def _checked(
    name: str, image: Tensor, target: Mapping[str, Any], num_classes: int, masks: bool
) -> Target:
    if not isinstance(target, Mapping):
        raise TypeError(f"{name} must be a dict, got {type(target).__name__}")
    if "image_id" in target:
        name = f"{name} (image_id {_plain(target['image_id'])})"
    height, width = image.shape[1:]
    boxes, labels = _entry(name, target, "boxes"), _entry(name, target, "labels")
    number = len(boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name}: boxes must be (N, 4), (0, 4) without objects, got {tuple(boxes.shape)}"
        )
    if not boxes.is_floating_point():
        raise ValueError(f"{name}: boxes must be of a floating dtype, got {boxes.dtype}")
    if labels.shape != (number,) or labels.dtype != torch.int64:
        raise ValueError(
            f"{name}: labels must be int64 ({number},), one a box, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    _check_boxes(name, boxes, height, width)
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        which = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}: labels[{which}] is {int(labels[which])}, and labels are 0 to "
            f"{num_classes - 1}, without one for background; torchvision's, which count from 1, "
            "less 1"
        )
    found = {"boxes": boxes.to(image.device), "labels": labels.to(image.device)}
    if masks:
        found["masks"] = _entry(name, target, "masks").to(image.device)
        if found["masks"].shape != (number, height, width):
            raise ValueError(
                f"{name}: masks must be ({number}, {height}, {width}), one a box and of the "
                f"image's size, got {tuple(found['masks'].shape)}"
            )
    if target.get("iscrowd") is not None:
        crowd = torch.as_tensor(target["iscrowd"], device=image.device).bool()
        if crowd.shape != (number,):
            raise ValueError(
                f"{name}: iscrowd must be ({number},), one a box, got {tuple(crowd.shape)}"
            )
        found = {key: value[~crowd] for key, value in found.items()}
    return found


def _check_boxes(name: str, boxes: Tensor, height: int, width: int) -> None:
    flawed = ~boxes.isfinite().all(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= boxes.new_tensor([width, height])).any(
        1
    )
    for wrong, what in (
        (flawed, "no box x1, y1, x2, y2 with x1 < x2 and y1 < y2"),
        (outside, f"outside of its image, of {height}x{width} pixels (height x width)"),
    ):
        if wrong.any():
            which = int(wrong.nonzero()[0])
            sides = [round(value, 2) for value in boxes[which].tolist()]
            raise ValueError(f"{name}: boxes[{which}] is {sides}, {what}")


def _entry(name: str, target: Mapping[str, Any], key: str) -> Tensor:
    value = target.get(key)
    if not isinstance(value, Tensor):
        found = "none" if value is None else type(value).__name__
        raise TypeError(f"{name}: {key} must be a torch.Tensor, got {found}")
    return value


def _plain(value: Any) -> Any:
    return value.squeeze().tolist() if isinstance(value, Tensor) else value
