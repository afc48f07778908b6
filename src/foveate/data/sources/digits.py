"""The embedded digits: too easy to rank mechanisms, and quick to look at."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from foveate.data.sources.base import Item, Listing, Raw, Source, from_array

__all__ = ["Digits"]


class Digits(Source):
    """The 1,797 scans of hand-written digits, 8x8, that ship with scikit-learn."""

    channels = 1

    def __init__(self) -> None:
        self.name = "digits"

    def list(self) -> Listing:
        labels = self._digits.target.tolist()
        classes = [str(name) for name in self._digits.target_names]
        return Listing(classes, [Item(str(row), label) for row, label in enumerate(labels)])

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        pixels = np.rint(self._digits.images[int(name)] * (255 / 16)).astype(np.uint8)
        return Raw(from_array(pixels))

    @cached_property
    def _digits(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()
