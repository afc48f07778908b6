"""Small networks that exporters take a second or two for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import foveate


class Network(nn.Module):
    """A stem, a mechanism, a classifier."""

    def __init__(self, attention: str = "squeeze_excitation", dim: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 4, 4), nn.BatchNorm2d(dim), nn.ReLU())
        self.attention = foveate.create_attention(attention, dim)
        self.head = nn.Linear(dim, 5)
        for norm in (each for each in self.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.stem(x)).mean((2, 3)))


class Shifted(nn.Module):
    """Computes something else once it is exported, as an operator with a fault would."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 if torch.compiler.is_exporting() else x


class Odd(nn.Module):
    """Uses an operator that nobody else has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.foveate_test.odd(x)


_library = torch.library.Library("foveate_test", "FRAGMENT")
_library.define("odd(Tensor x) -> Tensor")
_library.impl("odd", torch.sin, "CompositeExplicitAutograd")
torch.library.register_fake("foveate_test::odd", torch.empty_like, lib=_library)
