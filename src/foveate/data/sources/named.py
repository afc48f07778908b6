"""A published data set by name, fetched by timm's factory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.data.sources.base import TEST, TRAIN, DataError, Item, Listing, Raw, Source

__all__ = ["FACTORIES", "Named"]

FACTORIES = ("torchvision", "torch", "hfds", "tfds")
"""What stands before the slash of a name that timm's factory knows."""


class Named(Source):
    """A data set by name, through timm's factory: torchvision's, Hugging Face's, TensorFlow's."""

    def __init__(self, name: str, root: str | None) -> None:
        self.name = name
        self._sets = {split: self._create(split, root) for split in (TRAIN, TEST)}
        image, _ = self._sets[TRAIN][0]
        if not isinstance(image, Image.Image):
            raise DataError(f"{name} gives {type(image).__name__}, not images")
        self.channels = 1 if image.mode in ("L", "1", "I", "I;16") else 3

    def list(self) -> Listing:
        labels = {split: self._labels(split) for split in self._sets}
        names = getattr(self._sets[TRAIN], "classes", None)
        count = 1 + max(max(column) for column in labels.values())
        classes = [str(n) for n in names] if names else [str(i) for i in range(count)]
        items = [
            Item(f"{split}/{row}", label, split)
            for split, column in labels.items()
            for row, label in enumerate(column)
        ]
        return Listing(classes, items)

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        split, row = name.split("/")
        image, _ = self._sets[split][int(row)]
        image.load()
        return Raw(image)

    def _create(self, split: str, root: str | None) -> Any:
        from timm.data import create_dataset

        known = re.sub("^torchvision/", "torch/", self.name)
        try:
            folder = Path(root or "~/.cache/foveate").expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            found = create_dataset(
                known, root=str(folder), split="train" if split == TRAIN else "validation",
                download=True,
            )  # fmt: skip
            if len(found) == 0:
                raise DataError(f"{self.name} holds no images ({split})")
            return found
        except DataError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"data {self.name!r} cannot be opened: {reason}") from error

    def _labels(self, split: str) -> list[int]:
        found = self._sets[split]
        targets = getattr(found, "targets", None)
        if targets is None:
            targets = [found[i][1] for i in range(len(found))]
        return [int(label) for label in targets]
