"""Mechanisms of a user's own, some of which break."""

from __future__ import annotations

import os

from torch import Tensor, nn

from foveate.contracts import Mixer
from foveate.registry import register


class _Pointwise(Mixer):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Conv2d(dim, dim, 1)
        self.calls = 0

    def multiply_adds(self, height: int, width: int) -> int:
        return height * width * self.dim**2

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == 3:
            self.trouble()
        return self.project(x)

    def trouble(self) -> None:
        pass


@register("works", family="test", title="Works", paper="none")
class Works(_Pointwise):
    pass


@register("raises", family="test", title="Raises in the third step", paper="none")
class Raises(_Pointwise):
    def trouble(self) -> None:
        raise RuntimeError("the third step is\ntoo much")


@register("exits", family="test", title="Ends the process in the third step", paper="none")
class Exits(_Pointwise):
    def trouble(self) -> None:
        os._exit(7)


@register("starves", family="test", title="Asks for too much memory", paper="none")
class Starves(_Pointwise):
    def trouble(self) -> None:
        raise MemoryError


@register("crashes", family="test", title="Is killed in the third step", paper="none")
class Crashes(_Pointwise):
    def trouble(self) -> None:
        os.kill(os.getpid(), 9)


@register("fills_disk", family="test", title="From its second step the disk is full", paper="none")
class FillsDisk(_Pointwise):
    def trouble(self) -> None:
        import errno

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        os.fsync = full


@register("sleeps", family="test", title="Never ends its third step", paper="none")
class Sleeps(_Pointwise):
    def trouble(self) -> None:
        import time

        time.sleep(600)


@register("diverges", family="test", title="Gives no numbers", paper="none")
class Diverges(_Pointwise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (float("nan") if self.training else 1.0)


@register(
    "undeployable", family="test", title="Goes by its values, as no exporter can", paper="none"
)
class Undeployable(_Pointwise):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if bool(y.sum() > 0) else y + 0
