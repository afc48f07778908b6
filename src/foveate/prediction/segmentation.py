"""Masks of images: a class for every pixel, as palette images, and painted over the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate._files import replacing, write_json
from foveate.data.batches import normalized
from foveate.prediction.base import Shown, moments_of, percent, thumbnail
from foveate.prediction.files import Named, file_names
from foveate.prediction.reading import Picture
from foveate.saved.load import LoadedModel
from foveate.study.report.labelled import palette
from foveate.tasks import Segmentation

_PAINT = 0.6
_SHOWN = 4
MASKS, OVERLAYS, CLASSES = "masks", "overlays", "classes.json"


class Masks:
    """See :class:`foveate.prediction.base.Predictor`.

    Args:
        loaded: a model of segmentation.
        device: where it is.
        images: all that may come, for the names of files.
    """

    batch_size = 8

    def __init__(self, loaded: LoadedModel, device: str, images: Sequence[Named]) -> None:
        self.model, info = loaded
        self.classes, self.device = info.classes, device
        self.task = Segmentation(len(info.classes), window=info.input.window)
        self.colors = palette(info.colors, len(info.classes))
        self._moments = moments_of(info.input)
        names = [image.name for image in images]
        self._masks = dict(zip(names, file_names(images, ".png"), strict=True))
        self._overlays = dict(zip(names, file_names(images, ".jpg"), strict=True))

    def predict(self, pictures: list[Picture]) -> list[np.ndarray]:
        tensors = [self._tensor(picture.pixels) for picture in pictures]
        batch: Any = tensors
        if len({x.shape for x in tensors}) == 1:
            batch = torch.cat(tensors).contiguous(memory_format=torch.channels_last)
        else:
            batch = [x[0] for x in tensors]
        logits = self.task.predict(self.model, batch)
        return [each.argmax(0).byte().cpu().numpy() for each in logits]

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.atleast_3d(pixels).copy()).permute(2, 0, 1)[None]
        return normalized(x, *self._moments).to(self.device)

    def write(self, out: Path, picture: Picture, found: np.ndarray) -> None:
        mask = self._mask(found)
        _write(out / MASKS / self._masks[picture.name], mask, "PNG", optimize=True)
        image = Image.fromarray(picture.pixels)
        overlay = _painted(image, mask)
        _write(out / OVERLAYS / self._overlays[picture.name], overlay, "JPEG", quality=90)

    def show(self, picture: Picture, found: np.ndarray) -> Shown:
        image, mask = thumbnail(picture.pixels), self._mask(found)
        mask = mask.resize(image.size, Image.Resampling.NEAREST)
        shares = np.bincount(found.ravel(), minlength=len(self.classes)) / found.size
        largest = [label for label in np.argsort(-shares, kind="stable") if shares[label] > 0]
        said = tuple(
            f"{self.classes[label]}: {percent(shares[label])}" for label in largest[:_SHOWN]
        )
        return Shown(picture.name, (("image", image), ("labels", _painted(image, mask))), said)

    def finish(self, out: Path) -> list[str]:
        named = {"classes": list(self.classes), "colors": [list(color) for color in self.colors]}
        write_json(out / CLASSES, named)
        return [
            f"{MASKS}/: a PNG an image, at its own size, whose values are the numbers of classes "
            f"from 0 ({CLASSES} names them); {OVERLAYS}/: the same painted over the images"
        ]

    def _mask(self, labels: np.ndarray) -> Image.Image:
        height, width = labels.shape
        mask = Image.frombytes("P", (width, height), labels.tobytes())
        mask.putpalette([part for color in self.colors for part in color])
        return mask


def _painted(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image in gray under the colors of its mask."""
    gray = image.convert("L").convert("RGB")
    return Image.blend(gray, mask.convert("RGB"), _PAINT)


def _write(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # an encoder hides why the disk refused
    image.save(buffer, kind, **options)
    with replacing(path) as file:
        file.write(buffer.getbuffer())
