"""Batches of images with masks: crops to train on, and whole images to measure on.

What is done to an image is done to its mask (torchvision's transforms v2); a mask is never
interpolated, and where a crop reaches beyond the image its labels do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from foveate._random import seed_all
from foveate.arguments import nearest
from foveate.data.batches import Batches
from foveate.data.images import ImageSet, MaskedImages
from foveate.data.moments import Moments
from foveate.data.pixels.mask import IGNORED

Pair = tuple[Tensor, Tensor]


class Options(NamedTuple):
    """What may be said of the augmentation.

    Attributes:
        scale: least and greatest change of size.
        hflip: probability of mirroring; None for one half where the images allow it, else 0.
        color_jitter: greatest change of brightness, contrast and saturation.
    """

    scale: tuple[float, float] = (0.75, 1.5)
    hflip: float | None = None
    color_jitter: float = 0.3


KINDS = ("auto", "photo", "affine", "none")
_OF_KIND = {
    "photo": Options(),
    "affine": Options(hflip=0.0, color_jitter=0.0),
    "none": Options((1.0, 1.0), 0.0, 0.0),
}


def options_of(kind: str, mirror: bool, given: dict[str, Any]) -> Options:
    """What is done for a kind of images, or as given.

    Args:
        kind: ``"photo"``, ``"affine"`` or ``"none"``.
        mirror: whether ``"photo"`` mirrors where nothing is given.
        given: some of :class:`Options` by name.

    Raises:
        ValueError: if one is unknown, with the nearest, or out of its range.
    """
    for name in given:
        if name not in Options._fields:
            raise ValueError(
                f"augment_kwargs: segmentation has no option {name!r}"
                f"{nearest(name, Options._fields)}"
            )
    options = _OF_KIND[kind]._replace(**given)
    if options.hflip is None:
        options = options._replace(hflip=0.5 if mirror else 0.0)
    try:
        low, high = map(float, options.scale)
        sound = 0 < low <= high < float("inf") and 0 <= float(options.hflip or 0) <= 1
        sound = sound and 0 <= float(options.color_jitter) < 1
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            "augment_kwargs: expected scale=[LEAST,GREATEST] above 0, hflip in [0, 1] and "
            f"color_jitter in [0, 1), got {options._asdict()}"
        )
    return options._replace(scale=(low, high))


def train_crops(
    images: ImageSet,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    *,
    augment: str = "auto",
    augment_kwargs: dict[str, Any] | None = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> MaskedBatches:
    """Shuffled crops, ``(images (B, C, H, W), labels (B, H, W))``; a last part batch is left out.

    Args:
        images: the prepared set, with masks.
        size: height and width of the crops.
        batch_size: images a batch.
        seed: of the order and of what augmentation does.
        augment: ``"auto"`` takes what ``images.augmentation`` says; ``"none"`` crops only.
        augment_kwargs: see :class:`Options`.
        normalize: mean and deviation; None for those of the training images.
        processes: that apply the transform.
    """
    kind = images.augmentation.kind if augment == "auto" else augment
    options = options_of(kind, images.augmentation.mirror, augment_kwargs or {})
    normalize = normalize or images.moments
    crop = Crop(size, options, tuple(round(255 * mean) for mean in normalize.mean))
    return MaskedBatches(images.train, normalize, crop, batch_size, seed, None, processes)


def whole_images(
    images: ImageSet,
    batch_size: int,
    *,
    split: Any = None,
    normalize: Moments | None = None,
    processes: int = 0,
) -> MaskedBatches:
    """The images held out (or of another ``split``), whole and in order, with their labels.

    A batch of images of one size is a tensor, any other a list.
    """
    chosen = images.test if split is None else split
    normalize = normalize or images.moments
    return MaskedBatches(chosen, normalize, None, batch_size, None, None, processes)


class Crop:
    """A change of size, a crop, a mirror and a change of color, of an image and its mask.

    Args:
        size: height and width of the crop.
        options: how much of each.
        fill: color of what lies beyond the image.
    """

    def __init__(self, size: tuple[int, int], options: Options, fill: tuple[int, ...]) -> None:
        fills = {tv_tensors.Image: list(fill), tv_tensors.Mask: IGNORED}
        jitter = (options.color_jitter,) * (3 if len(fill) == 3 else 2)
        self.transform = v2.Compose(
            [
                *([Rescale(options.scale)] if options.scale != (1.0, 1.0) else []),
                v2.RandomCrop(size, pad_if_needed=True, fill=fills),  # pyrefly: ignore
                *([v2.RandomHorizontalFlip(options.hflip or 0.0)] if options.hflip else []),
                *([v2.ColorJitter(*jitter)] if options.color_jitter else []),
            ]
        )

    def __call__(self, image: Tensor, mask: Tensor) -> Pair:
        """(C, h, w) uint8 and (h, w) uint8 to (C, H, W) and (H, W)."""
        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


class Rescale(v2.Transform):
    """Change the size by a factor drawn evenly, both sides alike."""

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"size": [max(1, round(factor * height)), max(1, round(factor * width))]}

    def transform(self, x: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resize(x, params["size"], antialias=True)  # nearest for masks


class MaskedBatches(Batches):
    """Iterates over images, normalised float32, and labels, int64; see the functions above."""

    def __iter__(self) -> Iterator[Any]:
        chunks, _ = self.begin_epoch()
        for images, labels in self._load(chunks):
            if isinstance(images, Tensor):
                yield self._normalized(images), labels.long()
            else:
                yield [self._normalized(x[None])[0] for x in images], [y.long() for y in labels]

    def _make_dataset(self, images: Any, transform: Any, seed: int | None) -> Dataset:
        return _Masked(images, transform, seed)

    @staticmethod
    def _collate(pairs: list[Pair]) -> Any:
        images, masks = zip(*pairs, strict=True)
        if len({x.shape for x in images}) == 1:
            return torch.stack(images), torch.stack(masks)
        return list(images), list(masks)


class _Masked(Dataset):
    """Images and masks by (epoch, index), augmented as a function of seed, epoch and index."""

    def __init__(self, images: MaskedImages, transform: Crop | None, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> Pair:
        epoch, index = key
        image = torch.from_numpy(self.images[index].copy())
        image = image[None] if image.dim() == 2 else image.permute(2, 0, 1)
        mask = torch.from_numpy(self.images.mask(index).copy())
        if self.transform is None:
            return image, mask
        if self.seed is not None:
            seed_all(self.seed, epoch, index)
        image, mask = self.transform(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)
