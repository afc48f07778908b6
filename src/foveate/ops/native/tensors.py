"""How tensors are handed to the compiled CPU kernels: what each of their faces does alike."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops import _dropout

STORAGE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The numbers that ``storage.h`` has for dtypes."""


def channels_together(x: Tensor) -> Tensor:
    """``x`` with neighbouring channels."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def aligned(x: Tensor) -> Tensor:
    """``x`` at an address that its elements may have; memory from elsewhere may lie anywhere."""
    return x.clone() if x.data_ptr() % x.element_size() else x


def run_settings(scale: float, dropout_p: float, seed: Tensor | None) -> tuple[int | float, ...]:
    """What ends every kernel's struct of sizes: threads, dropout, and the two factors."""
    word = int(seed) if dropout_p and seed is not None else 0
    return (
        torch.get_num_threads(),
        word & 0xFFFFFFFF,
        word >> 32,
        _dropout.threshold(dropout_p),
        scale,
        1 / (1 - dropout_p),
    )
