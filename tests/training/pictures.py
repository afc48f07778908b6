"""Small images in tensors, shared among processes as the library's batches are."""

from __future__ import annotations

import torch
from torch import nn

from foveate._random import seed_all
from foveate.data.loading import Epochs
from foveate.tasks import Classification

CLASSES = 3


class Pictures(Epochs):
    """Images (N, 3, 8, 8) of three classes, which a color tells apart; no end of epoch ``stop``."""

    stop = None

    def __init__(self, images: int, batch_size: int, seed: int | None) -> None:
        super().__init__(images, batch_size, seed)
        generator = torch.Generator().manual_seed(images)
        self.labels = torch.arange(images) % CLASSES
        self.pixels = torch.randn(images, 3, 8, 8, generator=generator)
        self.pixels[torch.arange(images), self.labels] += 0.5

    def __iter__(self):
        chunks, _ = self.begin_epoch()
        for chunk in chunks:
            if self.stop == self.epoch:
                raise ZeroDivisionError
            yield self.pixels[chunk], self.labels[chunk]


def classifier() -> nn.Module:
    """Without batch norm or dropout."""
    seed_all(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(512, CLASSES)
    )


def task() -> Classification:
    return Classification(CLASSES)


def numbers(result) -> list[dict[str, float]]:
    return [record.values for record in result.history]
