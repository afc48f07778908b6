"""Batches of annotated images, of different sizes, and what augmentation does to image and objects.

Training images are resized to ``size`` times a random factor, shifted or cut to ``size``, and
mirrored if the set says so; boxes and masks go along (``torchvision.transforms.v2``). What is left
of a box outside is cut off, and a box of less than a pixel is gone. Held-out images are resized so
that they fit inside ``size``, whole and in proportion.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from foveate._random import seed_all
from foveate.data.annotations.masks import coco_masks
from foveate.data.annotations.record import AnnotatedImage
from foveate.data.detection import DetectionSet, Masks
from foveate.data.images import AnnotatedImages
from foveate.data.loading import Epochs, KeyedLoader
from foveate.data.moments import Moments

SCALES = (0.7, 1.4)
"""The range of random factors on the size of training images."""

Target = dict[str, Tensor]


def train_detection_batches(
    images: DetectionSet,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    *,
    scales: tuple[float, float] = SCALES,
    hflip: float | None = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> DetectionBatches:
    """Shuffled, augmented batches; a last one that is not full is left out.

    Args:
        images: the prepared set.
        size: height and width of every image.
        batch_size: images a batch.
        seed: of the order and of what augmentation does.
        scales: range of the random factor on the size of what is seen.
        hflip: share of images that is mirrored; None for half of them if the set says so.
        normalize: mean and deviation; None for those of the training images. A pretrained model
            wants those that it was trained with, and torchvision's detectors, which normalise
            themselves, a mean of 0 and a deviation of 1.
        processes: that prepare images.
    """
    fill = tuple(round(255 * mean) for mean in images.moments.mean)
    transform = Varied(size, scales, 0.5 * images.mirror if hflip is None else hflip, fill)
    normalize = normalize or images.moments
    return DetectionBatches(
        images.train, images.masks, normalize, transform, batch_size, seed, processes
    )


def held_out_detection_batches(
    images: DetectionSet,
    size: tuple[int, int],
    batch_size: int,
    *,
    split: AnnotatedImages | None = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> DetectionBatches:
    """The images held out (or of another ``split``), each resized to fit inside ``size``."""
    chosen = images.test if split is None else split
    normalize = normalize or images.moments
    return DetectionBatches(
        chosen, images.masks, normalize, Inside(size), batch_size, None, processes
    )


class Varied:
    """Scale, shift or cut, and mirror an image and its objects, at random.

    Args:
        size: height and width of what comes out.
        scales: range of the random factor; below 1 the image is laid on a ground.
        hflip: share of images that is mirrored left to right.
        fill: red, green and blue of the ground, 0 to 255.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scales: tuple[float, float],
        hflip: float,
        fill: tuple[int, ...],
    ) -> None:
        grounds: Any = {tv_tensors.Image: fill, "others": 0}
        self._steps = v2.Compose(
            [
                v2.ScaleJitter(size, scale_range=scales, antialias=True),
                v2.RandomCrop(size, pad_if_needed=True, fill=grounds),
                *([v2.RandomHorizontalFlip(hflip)] if hflip else []),
                v2.SanitizeBoundingBoxes(1, labels_getter=_of_each_box),
            ]
        )

    def __call__(self, image: tv_tensors.Image, target: Target) -> tuple[Any, Target]:
        """Image (3, H, W) uint8 and its target, changed together."""
        return self._steps(image, target)


class Inside:
    """Resize an image and its objects so that they fit inside ``size`` (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: tv_tensors.Image, target: Target) -> tuple[Any, Target]:
        """Image (3, H, W) uint8 and its target, resized together."""
        height, width = image.shape[-2:]
        scale = min(self.size[0] / height, self.size[1] / width)
        wanted = [max(1, round(height * scale)), max(1, round(width * scale))]
        if wanted == [height, width]:
            return image, target
        resized = v2.Resize(wanted, antialias=True)
        return resized(image, target)


def _of_each_box(inputs: tuple[Any, Target]) -> tuple[Tensor, ...]:
    return inputs[1]["labels"], inputs[1]["iscrowd"], inputs[1]["area"]


class DetectionBatches(Epochs):
    """Iterates over ``(images, targets)``, lists of one for each image, as torchvision's detectors
    take them.

    An image is float32 (3, H, W), normalised. A target is a dict of ``boxes`` (N, 4) float32
    ``x1, y1, x2, y2`` in its pixels, ``labels`` (N,) 0..K-1, ``iscrowd`` (N,) bool, ``area`` (N,)
    in pixels of the original image, ``image_id`` () its place in the split, ``scale`` (2,) pixels
    of the original a pixel, across and down, and where the set has masks ``masks`` (N, H, W) uint8.

    Args:
        images: where they come from.
        masks: where masks come from.
        normalize: mean and standard deviation of each channel.
        transform: of an image and its target.
        batch_size: images a batch.
        seed: shuffles and augments; None keeps the order and every image.
        processes: that apply ``transform``; 0 for the process at hand.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        masks: Masks,
        normalize: Moments,
        transform: Varied | Inside,
        batch_size: int,
        seed: int | None,
        processes: int,
    ) -> None:
        super().__init__(len(images), batch_size, seed)
        self.images = images
        self._load = KeyedLoader(
            _Annotated(images, masks, normalize, transform, seed), collate, processes
        )

    @property
    def processes(self) -> int:
        """That apply the transform; 0 for the process at hand."""
        return self._load.processes

    def here(self) -> DetectionBatches:
        """The same batches, drawn by the process at hand."""
        same = copy.copy(self)
        same._load = self._load.here()
        return same

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Target]]]:
        chunks, _ = self.begin_epoch()
        yield from self._load([[(self.epoch, i) for i in chunk.tolist()] for chunk in chunks])


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """A list of images and a list of targets."""
    return [image for image, _ in samples], [target for _, target in samples]


class _Annotated(Dataset):
    """Images and targets by (epoch, index), each augmented as a function of seed, epoch, index."""

    def __init__(
        self,
        images: AnnotatedImages,
        masks: Masks,
        normalize: Moments,
        transform: Varied | Inside,
        seed: int | None,
    ) -> None:
        self.images, self.masks, self.transform, self.seed = images, masks, transform, seed
        self._mean = torch.tensor(normalize.mean).view(-1, 1, 1)
        self._std = torch.tensor(normalize.std).view(-1, 1, 1)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = key
        annotated = self.images.annotated[index]
        pixels = torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1)
        target = target_of(annotated, (pixels.shape[1], pixels.shape[2]), index, self.masks)
        if self.seed is not None:
            seed_all(self.seed, epoch, index)
        image, target = self.transform(tv_tensors.Image(pixels), target)
        target["scale"] = torch.tensor(
            [annotated.size[1] / image.shape[-1], annotated.size[0] / image.shape[-2]]
        )
        plain = {name: torch.as_tensor(value.as_subclass(Tensor)) for name, value in target.items()}
        return (image.as_subclass(Tensor) / 255).sub_(self._mean).div_(self._std), plain


def target_of(annotated: AnnotatedImage, size: tuple[int, int], index: int, masks: Masks) -> Target:
    """What is known of an image whose pixels are of ``size`` (height, width)."""
    y, x = size[0] / annotated.size[0], size[1] / annotated.size[1]
    objects = annotated.objects
    boxes = torch.from_numpy(objects.boxes * (x, y, x, y)).float()
    target: dict[str, Tensor] = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # pyrefly: ignore
        "labels": torch.from_numpy(objects.labels),
        "iscrowd": torch.from_numpy(objects.crowd),
        "area": torch.from_numpy(objects.areas).float(),
        "image_id": torch.tensor(index),
    }
    if masks == "given":
        target["masks"] = tv_tensors.Mask(_decoded(annotated, size))
    elif masks != "none":
        target["masks"] = tv_tensors.Mask(_drawn(boxes.tolist(), size, masks))
    return target


def _decoded(annotated: AnnotatedImage, size: tuple[int, int]) -> Tensor:
    """(N, H, W) uint8, the masks of the annotations at ``size``."""
    found = annotated.objects.masks
    if not found:
        return torch.zeros((0, *size), dtype=torch.uint8)
    # One at a time: an annotation file may state another size for some of its images.
    planes = [torch.from_numpy(np.ascontiguousarray(coco_masks().decode(mask))) for mask in found]
    if planes[0].shape == size:
        return torch.stack(planes)
    return torch.stack(
        [F.resize(plane[None], list(size), v2.InterpolationMode.NEAREST)[0] for plane in planes]
    )


def _drawn(boxes: list[list[float]], size: tuple[int, int], masks: Masks) -> Tensor:
    """(N, H, W) uint8, an ellipse or a rectangle in each box."""
    planes = np.zeros((len(boxes), *size), dtype=np.uint8)
    y, x = np.ogrid[: size[0], : size[1]]
    for plane, (x1, y1, x2, y2) in zip(planes, boxes, strict=True):
        across, down = (
            (x + 0.5 - (x1 + x2) / 2) * 2 / (x2 - x1),
            (y + 0.5 - (y1 + y2) / 2) * 2 / (y2 - y1),
        )
        if masks == "ellipse":
            plane[across**2 + down**2 <= 1] = 1
        else:
            plane[(abs(across) <= 1) & (abs(down) <= 1)] = 1
    return torch.from_numpy(planes)
