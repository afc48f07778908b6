"""What the Triton kernels of every operator share: when they run, how they start, what they count.

Only the kernels' own modules import this one, and only once a call is theirs: a program without a
GPU never loads Triton. :mod:`foveate.ops._backends` decides that.

A position on a map is counted within its class, the positions that agree modulo the dilation; a
class is a dense map, so that the neighbours of a tile of queries are compact at any dilation.
Channels are padded to a power of two. Offsets into tensors have 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

Programs = Callable[[dict[str, int]], Any]  # how many, by tile sizes

INTERPRETED = triton.knobs.runtime.interpret  # what @triton.jit saw when it made the kernels


def launch(
    kernel: Any,
    programs: Programs,
    configs: tuple[triton.Config, ...],
    key: tuple[str, ...],
    arguments: dict[str, Any],
) -> None:
    """Start ``programs(tile sizes)`` programs of a kernel, in the fastest of its ``configs``.

    The first call with new values of the arguments named by ``key``, or with new dtypes, times
    every config; the winner is kept on disk. The interpreter takes the first config.
    """
    if INTERPRETED:
        sizes = configs[0].kwargs
        kernel[(programs(sizes),)](**arguments, **sizes)
        return
    device = arguments["q"].device.index
    tuned = _tuned(kernel, configs, key, device)
    wrap_triton(tuned)[lambda sizes: (programs(sizes),)](**arguments)


@cache
def _tuned(kernel: Any, configs: tuple, key: tuple[str, ...], device: int | None) -> Any:
    """The kernel with a search of its own for each device."""
    return triton.autotune(list(configs), list(key), cache_results=True)(kernel)


def tiles(q: Tensor, dilation: Sequence[int], margin: Sequence[int] = (0, 0)) -> Programs:
    """How many programs cover the map, grown by a margin of cells in every class."""
    batch, height, width, heads, _ = q.shape

    def count(sizes: dict[str, int]) -> int:
        programs = batch * heads
        for length, step, more, tile in zip(
            (height, width), dilation, margin, (sizes["TILE_H"], sizes["TILE_W"]), strict=True
        ):
            longest = (length + step - 1) // step + more
            programs = programs * step * ((longest + tile - 1) // tile)
        return programs

    return count


def padded(channels: int) -> int:
    """Channels of a block: what the matrix units take."""
    return max(16, triton.next_power_of_2(int(channels)))


def precision() -> str:
    """How float32 products are made: on NVIDIA as PyTorch's own matrix products are told to."""
    tf32 = torch.version.hip is None and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


# ---- in kernels


@triton.jit
def channels(BLOCK: tl.constexpr):
    """The channels of a block, as a row."""
    return tl.arange(0, BLOCK).to(tl.int64)[None, :]


@triton.jit
def load_rows(x, offset, there, stride, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """The vectors ``(N, BLOCK)`` that start at ``x + offset``; zero where not ``there``."""
    d = channels(BLOCK)
    return tl.load(
        x + offset[:, None] + d * stride, mask=there[:, None] & (d < CHANNELS), other=0.0
    )


@triton.jit
def store_rows(x, offset, there, rows, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Write vectors ``(N, BLOCK)`` with neighbouring channels to ``x + offset``."""
    d = channels(BLOCK)
    tl.store(
        x + offset[:, None] + d,
        rows.to(x.dtype.element_ty),
        mask=there[:, None] & (d < CHANNELS),
    )


@triton.jit
def tile_of(number, heads, longest_y, longest_x, DIL_H, DIL_W, TILE_H, TILE_W):
    """A program's image, head, class along each axis, and its tile's first cell in the class."""
    head = number % heads
    number = number // heads
    across = tl.cdiv(longest_x, TILE_W)
    left = number % across * TILE_W
    number = number // across
    class_x = number % DIL_W
    number = number // DIL_W
    down = tl.cdiv(longest_y, TILE_H)
    top = number % down * TILE_H
    number = number // down
    class_y = number % DIL_H
    image = number // DIL_H
    return image, head, class_y, class_x, top, left


@triton.jit
def cells_of(top, left, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """The positions of a tile's cells, row by row."""
    cell = tl.arange(0, TILE_H * TILE_W)
    return top + cell // TILE_W, left + cell % TILE_W


@triton.jit
def number_of(image, y, x, head, class_y, class_x, H, W, heads, DIL_H, DIL_W):
    """The queries' numbers: their places in a contiguous ``(B, H, W, heads)``."""
    row = (image.to(tl.int64) * H + (y * DIL_H + class_y)) * W
    return (row + (x * DIL_W + class_x)) * heads + head


@triton.jit
def offset_of(image, row, column, head, b, y, x, h):
    """Where the vectors of pixels start in a tensor of these strides."""
    start = image.to(tl.int64) * b + head.to(tl.int64) * h
    return start + row.to(tl.int64) * y + column.to(tl.int64) * x


@triton.jit
def dropped(weights, seed, number, place, threshold, keep_scale):
    """Weights after dropout; all of them without a seed."""
    if seed is not None:
        weights = tl.where(_kept(seed, number, place, threshold), weights * keep_scale, 0.0)
    return weights


@triton.jit
def _kept(seed, query, key, threshold):
    """Whether dropout keeps a query's weight of a key: the hash of ``_dropout.py``."""
    word = tl.load(seed)
    low, high = (word & 0xFFFFFFFF).to(tl.uint32), (word >> 32).to(tl.uint32)
    mixed = _mix(query.to(tl.uint32) + low)
    mixed = _mix(mixed + key.to(tl.uint32) * _word(0x9E3779B9) + high)
    return mixed.to(tl.int64) >= threshold


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = x * _word(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * _word(0x846CA68B)
    return x ^ (x >> 16)


@triton.jit
def _word(value: tl.constexpr):
    return tl.full((), value, tl.uint32)
