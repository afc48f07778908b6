"""How tensors are handed to the compiled CPU kernels, by all operators alike."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from foveate.layout import memory_format
from foveate.ops import _dropout
from foveate.ops.native.interface import ABSENT, Run, Storage, View

STORAGE = {
    torch.float32: Storage.FLOAT32.value,
    torch.bfloat16: Storage.BFLOAT16.value,
    torch.float16: Storage.FLOAT16.value,
}
"""The numbers that the C sources have for dtypes."""

Plan = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and dtype."""


def channels_together(x: Tensor) -> Tensor:
    """``x`` with neighbouring channels."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def aligned(x: Tensor) -> Tensor:
    """``x`` at an address that its elements may have; memory from elsewhere may lie anywhere."""
    return x.clone() if x.data_ptr() % x.element_size() else x


def rows(x: Tensor) -> Tensor:
    """A map ``(B, H, W, C)`` in float32 whose channels lie side by side."""
    return aligned(channels_together(x.to(torch.float32)))


def map_view(x: Tensor) -> View:
    """Address and strides of a map ``(B, H, W, C)`` whose channels lie side by side."""
    return (x.data_ptr(), *x.stride()[:3], 0, 1)  # pyrefly: ignore[bad-return]


def view(x: Tensor) -> View:
    """Address and strides of ``x`` ``(B, H, W, heads, D)``."""
    # A plain tuple packs like the named one and is made in half the time, four times a call.
    return (x.data_ptr(), *x.stride())  # pyrefly: ignore[bad-return]


def plan(x: Tensor | None) -> Plan | None:
    """What a kernel is told of a tensor beside its address."""
    return None if x is None else (x.shape, x.stride(), x.dtype)


def planned_view(x: Plan | None) -> View:
    """The strides of a tensor ``(B, H, W, heads, D)``, or of one with fewer axes; no address."""
    return ABSENT if x is None else View(0, *x[1])


def set_seed(words: array[int], at: int, seed: Tensor | None) -> None:
    """The seed's halves in two words of a struct."""
    if seed is not None:
        number = int(seed)
        words[at], words[at + 1] = number & 0xFFFFFFFF, number >> 32


def run_settings(scale: float, dropout_p: float, threads: int) -> Run:
    """What every kernel takes, but the seed: threads, dropout, and the factor of the logits."""
    return Run(threads, 0, 0, _dropout.threshold(dropout_p), scale, 1 / (1 - dropout_p))


def map_axes(x: Tensor) -> tuple[int, int, int]:
    """The axes of a map ``(B, C, H, W)`` from the outermost in memory to the innermost."""
    return (2, 3, 1) if memory_format(x) is torch.channels_last else (1, 2, 3)


def in_memory(x: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """``x (B, C, H, W)`` with these axes in memory, as ``(B, outer, middle, inner)``."""
    return aligned(x.permute(0, *axes).contiguous())


def like_map(x: Tensor) -> Tensor:
    """An empty tensor of the shape and memory format of a map."""
    return torch.empty(x.shape, dtype=x.dtype, memory_format=memory_format(x))
