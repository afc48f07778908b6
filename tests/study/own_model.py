"""A model of a user's own, as ``--host own_model.py:build`` names it."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.norm(self.conv(x)))


def build(num_classes: int, width: int = 8) -> nn.Module:
    stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
    head = nn.Linear(width, num_classes)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(stem, Block(width), Block(width), pool, nn.Flatten(), head)


def build_map(num_classes: int) -> nn.Module:
    return nn.Conv2d(3, num_classes, 1)


def build_nothing(num_classes: int) -> int:
    return num_classes


def build_badly(num_classes: int) -> nn.Module:
    raise KeyError("width")
