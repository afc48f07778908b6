"""How tensors are handed to the compiled CPU kernels, by all operators alike."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops import _dropout
from foveate.ops.native.interface import Run, Storage, View

STORAGE = {
    torch.float32: Storage.FLOAT32.value,
    torch.bfloat16: Storage.BFLOAT16.value,
    torch.float16: Storage.FLOAT16.value,
}
"""The numbers that the C sources have for dtypes."""


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


def run_settings(scale: float, dropout_p: float, seed: Tensor | None) -> Run:
    """What every kernel takes: threads, dropout, and the factor of the logits."""
    word = int(seed) if dropout_p and seed is not None else 0
    return Run(
        torch.get_num_threads(),
        word & 0xFFFFFFFF,
        word >> 32,
        _dropout.threshold(dropout_p),
        scale,
        1 / (1 - dropout_p),
    )
