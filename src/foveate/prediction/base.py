"""What prediction asks of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.prediction.reading import Picture
from foveate.saved.info import ImageInput

THUMBNAIL = 200
"""Longer side of the pictures on the page."""


class Shown(NamedTuple):
    """An image on the page.

    Attributes:
        name: of the image.
        pictures: small ones, RGB, each with what it is.
        said: what was found, a line each.
    """

    name: str
    pictures: tuple[tuple[str, Image.Image], ...]
    said: tuple[str, ...]


class Predictor(Protocol):
    """Predicts images of one task, and leaves results.

    Attributes:
        batch_size: images a batch, unless the user says otherwise.
    """

    batch_size: int

    def predict(self, pictures: list[Picture]) -> list[Any]:
        """What the model finds in each."""
        ...

    def write(self, out: Path, picture: Picture, found: Any) -> None:
        """Put the files of one image into ``out``, and keep what the tables hold of it."""
        ...

    def show(self, picture: Picture, found: Any) -> Shown:
        """One image for the page."""
        ...

    def finish(self, out: Path) -> list[str]:
        """Put the tables into ``out``; returns what there is and what to say of it, a line each."""
        ...


def moments_of(how: ImageInput) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (1, C, 1, 1)."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (how.mean, how.std))
    return mean, std


def thumbnail(pixels: np.ndarray) -> Image.Image:
    """The image, RGB, with at most :data:`THUMBNAIL` pixels along a side; a tiny one enlarged."""
    image = Image.fromarray(pixels).convert("RGB")
    factor = THUMBNAIL // max(image.size)
    if factor > 1:
        size = image.width * factor, image.height * factor
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return image


def percent(share: float) -> str:
    """``40 %``, ``0.3 %``."""
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
