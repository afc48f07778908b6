"""Mean and standard deviation of the training images, which all images are normalised with.

Fixed moments (of ImageNet, or one half) leave a set of white pages or dark scans far from zero mean
and unit deviation, and there mechanisms differ in whether they learn at all; with the set's own
moments they all start alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

SAMPLE = 2000
_LEAST = 1 / 255


class Moments(NamedTuple):
    """Per channel, of images in [0, 1].

    Attributes:
        mean: of each channel.
        std: standard deviation of each channel, at least 1/255.
        images: how many they were computed from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int = 0


def moments(images: Sequence[np.ndarray], size: tuple[int, int], channels: int) -> Moments:
    """The moments over at most :data:`SAMPLE` images, evenly spaced, each fitted to ``size``.

    Args:
        images: uint8, (H, W) or (H, W, 3).
        size: height and width to train at, so that every image weighs the same.
        channels: 1 or 3.
    """
    rows = sample(len(images), SAMPLE)
    total, squares = np.zeros(channels), np.zeros(channels)
    for row in rows:
        x = fitted(images[row], size).reshape(-1, channels) / 255
        total += x.mean(0)
        squares += (x**2).mean(0)
    mean = total / len(rows)
    deviation = np.sqrt(np.maximum(squares / len(rows) - mean**2, _LEAST**2))
    return Moments(tuple(mean.tolist()), tuple(deviation.tolist()), len(rows))


class Sampled:
    """A bounded, evenly spaced sample of images, read as needed.

    Attributes:
        rows: the numbers of those in it.
    """

    def __init__(self, images: Sequence[np.ndarray], most: int = SAMPLE) -> None:
        self.images, self.rows = images, sample(len(images), most)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[self.rows[index]]


def sample(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image resized and its middle cut out, (H, W) or (H, W, 3)."""
    height, width = size
    return np.asarray(
        ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.BICUBIC)
    )
