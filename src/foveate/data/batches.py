"""Batches of images for training and for the images held out.

What an epoch sees is a function of (seed, epoch) alone: the order, and for each image what
augmentation does to it. So a run that goes on from an epoch sees what it would have seen, and
the number of loader processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from foveate._random import derive, seed_all, undisturbed
from foveate.arguments import one_of
from foveate.data.images import Images, ImageSet

Augment = Literal["auto", "none", "affine", "photo"]
_PHOTO = {"scale": (0.35, 1.0), "color_jitter": 0.3, "interpolation": "bicubic"}


def moments(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised with."""
    if channels == 3:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return (0.5,), (0.5,)


def train_batches(
    images: ImageSet,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    *,
    augment: str = "auto",
    augment_kwargs: dict[str, Any] | None = None,
    processes: int = 0,
) -> Batches:
    """Shuffled, augmented batches; a last one that is not full is left out."""
    one_of(augment, get_args(Augment), "augment")
    if augment == "auto":
        augment = "photo" if images.photographs else "affine"
    transform: Callable[[Image.Image], Tensor] = Fit(size)
    if augment == "photo":
        mean, _ = moments(images.channels)
        options = {**_PHOTO, **(augment_kwargs or {})}
        if images.channels == 1:
            options["color_jitter"] = None
        transform = create_transform(
            (images.channels, *size), is_training=True, normalize=False, mean=mean, **options
        )
    after = Affine() if augment == "affine" else None
    return Batches(images.train, images.channels, transform, batch_size, seed, after, processes)


def held_out_batches(
    images: ImageSet, size: tuple[int, int], batch_size: int, *, processes: int = 0
) -> Batches:
    """The images held out, each fitted to ``size``, in order."""
    return Batches(images.test, images.channels, Fit(size), batch_size, None, None, processes)


class Fit:
    """Resize and cut the middle out, so that an image fills ``size`` (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        height, width = self.size
        fitted = np.array(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(fitted.reshape(height, width, -1)).permute(2, 0, 1)  # (C, H, W)


class Affine:
    """Small rotations, shifts and changes of size, for drawings; a whole batch at once."""

    angle, shift, zoom = 0.17, 0.08, 0.1

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Move the images (B, C, H, W), each in its own way."""
        draw = torch.rand(4, len(x), generator=generator) * 2 - 1
        angle, zoom = draw[0] * self.angle, 1 + draw[1] * self.zoom
        theta = torch.stack(
            [zoom * angle.cos(), -zoom * angle.sin(), draw[2] * 2 * self.shift,
             zoom * angle.sin(), zoom * angle.cos(), draw[3] * 2 * self.shift],
            dim=1,
        ).unflatten(1, (2, 3))  # fmt: skip
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class Batches:
    """Iterates over ``(images (B, C, H, W), labels (B,))``, images normalised float32.

    Args:
        images: where they come from.
        channels: of the images.
        transform: from a PIL image to a (C, H, W) tensor, uint8 or in [0, 1].
        batch_size: images a batch.
        seed: shuffles and augments; None keeps the order and every image.
        after: augmentation of a whole batch.
        processes: that apply ``transform``; 0 for the process at hand.
    """

    def __init__(
        self,
        images: Images,
        channels: int,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        seed: int | None,
        after: Callable[[Tensor, torch.Generator], Tensor] | None,
        processes: int,
    ) -> None:
        self.images = images
        self.batch_size = min(batch_size, len(images))
        self.seed = seed
        self.epoch = 0
        self.after = after
        self.processes = processes
        mean, std = moments(channels)
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)
        self._labels = torch.tensor(images.labels)
        self._dataset = _Transformed(images, transform, seed)
        self._fitted: Tensor | None = None
        self._fixed = images.in_memory and isinstance(transform, Fit)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.images)
        return count // self.batch_size if self.seed is not None else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator()
        order = torch.arange(len(self.images))
        if self.seed is not None:
            seed_all(self.seed, self.epoch)
            generator.manual_seed(derive(self.seed, self.epoch, 1) % 2**63)
            order = torch.randperm(len(self.images), generator=generator)
        chunks = list(order.split(self.batch_size))[: len(self)]
        for chunk, x in zip(chunks, self._load(chunks), strict=True):
            x = (x / 255 if x.dtype is torch.uint8 else x).sub(self._mean).div_(self._std)
            if self.after is not None:
                x = self.after(x, generator)
            yield x.contiguous(memory_format=torch.channels_last), self._labels[chunk]

    def _load(self, chunks: list[Tensor]) -> Iterator[Tensor]:
        self._dataset.epoch = self.epoch
        if self._fixed:
            if self._fitted is None:
                self._fitted = torch.stack([self._dataset[i] for i in range(len(self.images))])
            for chunk in chunks:
                yield self._fitted[chunk]
            return
        if self.processes == 0:
            for chunk in chunks:
                with undisturbed():
                    x = torch.stack([self._dataset[i] for i in chunk.tolist()])
                yield x
            return
        yield from DataLoader(
            self._dataset,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self.processes,
        )


class _Transformed(Dataset):
    def __init__(
        self, images: Images, transform: Callable[[Image.Image], Tensor], seed: int | None
    ) -> None:
        self.images, self.transform, self.seed, self.epoch = images, transform, seed, 0

    def __getitem__(self, index: int) -> Tensor:
        image = Image.fromarray(self.images[index])
        if self.seed is not None and not isinstance(self.transform, Fit):
            seed_all(self.seed, self.epoch, index)
        return self.transform(image)
