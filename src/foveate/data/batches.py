"""Batches of images for training and for the images held out.

What an epoch sees is a function of (seed, epoch) alone: the order, and for each image what
augmentation does to it. So a run that goes on from an epoch sees what it would have seen, and
the number of loader processes changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from foveate._random import seed_all, undisturbed
from foveate.arguments import nearest, one_of
from foveate.data.augmentation import Augment
from foveate.data.images import Images, ImageSet
from foveate.data.loading import Epochs, KeyedLoader
from foveate.data.moments import Moments, fitted

PHOTO = {"scale": (0.35, 1.0), "color_jitter": 0.3, "interpolation": "bicubic"}
"""Options of timm's ``create_transform`` for photographs."""

_OURS = ("input_size", "is_training", "normalize", "mean")
_TRIES = 8


def train_batches(
    images: ImageSet,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    *,
    augment: str = "auto",
    augment_kwargs: dict[str, Any] | None = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> Batches:
    """Shuffled, augmented batches; a last one that is not full is left out.

    Args:
        images: the prepared set.
        size: height and width.
        batch_size: images a batch.
        seed: of the order and of what augmentation does.
        augment: ``"auto"`` takes what ``images.augmentation`` says. ``"photo"`` mirrors only if
            that says so, or ``augment_kwargs`` does (``{"hflip": 0.5}``).
        augment_kwargs: options of timm's ``create_transform``, for photographs.
        normalize: mean and deviation; None for those of the training images. A pretrained model
            wants those that it was trained with.
        processes: that apply the transform.
    """
    one_of(augment, get_args(Augment), "augment")
    if augment == "auto":
        augment = images.augmentation.kind
    normalize = normalize or images.moments
    transform: Callable[[Image.Image], Tensor] = Fit(size)
    if augment == "photo":
        mirror = {"hflip": 0.5 if images.augmentation.mirror else 0.0}
        options = {**mirror, **(augment_kwargs or {})}
        transform = _photo((images.channels, *size), normalize, options)
    after = Affine() if augment == "affine" else None
    return Batches(images.train, normalize, transform, batch_size, seed, after, processes)


def _photo(
    size: tuple[int, int, int], normalize: Moments, options: dict[str, Any]
) -> Callable[[Image.Image], Tensor]:
    """Timm's transform for photographs of ``size`` (channels, height, width)."""
    options = {**PHOTO, **options}
    if size[0] == 1:
        options["color_jitter"] = None
    return create_transform(size, is_training=True, normalize=False, mean=normalize.mean, **options)


def check_augmentation(augment: str, augment_kwargs: dict[str, Any], size: tuple[int, int]) -> None:
    """Refuse options that timm's transform does not have, or stumbles over.

    Args:
        augment: as for :func:`train_batches`.
        augment_kwargs: likewise.
        size: height and width.

    Raises:
        ValueError: if ``augment`` takes no options, one is unknown (with the nearest), or does not
            work.
    """
    if augment_kwargs and augment not in ("auto", "photo"):
        raise ValueError(f"augment_kwargs are options of photo; augment={augment} has none")
    known = [name for name in signature(create_transform).parameters if name not in _OURS]
    for name, value in augment_kwargs.items():
        if name not in known:
            raise ValueError(
                f"augment_kwargs: timm's create_transform has no option {name!r}"
                f"{nearest(name, known)}"
            )
        _try_photo(size, {name: value}, f"{name}={value!r}")
    if len(augment_kwargs) > 1:
        _try_photo(size, augment_kwargs, repr(augment_kwargs))


def _try_photo(size: tuple[int, int], options: dict[str, Any], said: str) -> None:
    """Run an image through the transform, often enough that what it does by chance is done."""
    blank = Image.new("RGB", (size[1] + 8, size[0] + 8))
    try:
        with undisturbed():
            transform = _photo((3, *size), Moments((0.5,) * 3, (0.2,) * 3), options)
            torch.stack([transform(blank) for _ in range(_TRIES)]).view(_TRIES, 3, *size)
    except Exception as error:
        raise ValueError(f"augment_kwargs: {said} does not work: {error}") from error


def held_out_batches(
    images: ImageSet,
    size: tuple[int, int],
    batch_size: int,
    *,
    split: Images | None = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> Batches:
    """The images held out (or of another ``split``), each fitted to ``size``, in order."""
    chosen = images.test if split is None else split
    normalize = normalize or images.moments
    return Batches(chosen, normalize, Fit(size), batch_size, None, None, processes)


class Fit:
    """Resize and cut the middle out, so that an image fills ``size`` (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        height, width = self.size
        pixels = np.array(fitted(np.asarray(image), self.size)).reshape(height, width, -1)
        return torch.from_numpy(pixels).permute(2, 0, 1)  # (C, H, W)


class Affine:
    """Small rotations, shifts and changes of size, for drawings; a whole batch at once."""

    angle, shift, zoom = 0.17, 0.08, 0.1

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """What is done to each of so many images: (images, 4), -1 to 1."""
        return (torch.rand(4, images, generator=generator) * 2 - 1).T

    def __call__(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Move the images (B, C, H, W), each in its own way."""
        draw = drawn.T
        angle, zoom = draw[0] * self.angle, 1 + draw[1] * self.zoom
        theta = torch.stack(
            [zoom * angle.cos(), -zoom * angle.sin(), draw[2] * 2 * self.shift,
             zoom * angle.sin(), zoom * angle.cos(), draw[3] * 2 * self.shift],
            dim=1,
        ).unflatten(1, (2, 3))  # fmt: skip
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class Batches(Epochs):
    """Iterates over ``(images (B, C, H, W), labels (B,))``, images normalised float32.

    Args:
        images: where they come from.
        normalize: mean and standard deviation of each channel.
        transform: from a PIL image to a (C, H, W) tensor, uint8 or in [0, 1].
        batch_size: images a batch.
        seed: shuffles and augments; None keeps the order and every image.
        after: augmentation of a whole batch.
        processes: that apply ``transform``; 0 for the process at hand.
    """

    def __init__(
        self,
        images: Images,
        normalize: Moments,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        seed: int | None,
        after: Affine | None,
        processes: int,
    ) -> None:
        super().__init__(len(images), batch_size, seed)
        self.images = images
        self.after = after
        self._mean = torch.tensor(normalize.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(normalize.std).view(1, -1, 1, 1)
        self._labels = torch.tensor(images.labels)
        self._dataset = self._make_dataset(images, transform, seed)
        self._fitted: Tensor | None = None
        self._loader = KeyedLoader(self._dataset, self._collate, processes)
        self._fixed = images.in_memory and isinstance(transform, Fit)

    @property
    def processes(self) -> int:
        """That apply the transform; 0 for the process at hand."""
        return self._loader.processes

    def here(self) -> Batches:
        """The same batches, drawn by the process at hand."""
        same = copy.copy(self)
        same._loader = self._loader.here()
        return same

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        chunks, generator = self.begin_epoch()
        for chunk, x in zip(chunks, self._load(chunks), strict=True):
            yield self._normalized(x, generator), self._labels[chunk]

    def _normalized(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = normalized(x, self._mean, self._std)
        if self.after is not None and generator is not None:
            x = self.after(x, self.after.draw(self.batch_size, generator)[self.of_batch])
        return x.contiguous(memory_format=torch.channels_last)

    def _make_dataset(self, images: Images, transform: Any, seed: int | None) -> Dataset:
        return _Transformed(images, transform, seed)

    _collate: Callable[[list[Any]], Any] = staticmethod(torch.stack)

    def _load(self, chunks: list[Tensor]) -> Iterator[Any]:
        if self._fixed:
            if self._fitted is None:
                self._fitted = torch.stack([self._dataset[0, i] for i in range(len(self.images))])
            for chunk in chunks:
                yield self._fitted[chunk]
            return
        yield from self._loader(
            [[(self.epoch, index) for index in chunk.tolist()] for chunk in chunks]
        )


def normalized(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (B, C, H, W), uint8 or in [0, 1], as a model gets them.

    One of gray images with moments of three channels is repeated.

    Args:
        x: the images.
        mean: (1, C, 1, 1).
        std: likewise.
    """
    return (x / 255 if x.dtype is torch.uint8 else x).sub(mean).div_(std)


class _Transformed(Dataset):
    """Images by (epoch, index), each augmented as a function of seed, epoch and index."""

    def __init__(
        self, images: Images, transform: Callable[[Image.Image], Tensor], seed: int | None
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        epoch, index = key
        image = Image.fromarray(self.images[index])
        if self.seed is not None and not isinstance(self.transform, Fit):
            seed_all(self.seed, epoch, index)
        return self.transform(image)
