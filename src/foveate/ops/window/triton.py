"""Window attention on GPUs: starts the Triton kernels, forward and backward.

A program has one head of one window and a block of its queries. The window's keys are read where
they lie on the map, a block at a time, which meet in a running softmax; a window of any size is
taken. Nothing is kept for the backward: its first kernel makes the log-sum-exp again before the
gradient of the queries, and the other two read it. The gradient of the bias is summed over chunks
of windows, then over chunks: nothing is added atomically.

``_triton_kernels.py`` has the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from foveate.ops import _triton
from foveate.ops._dropout import threshold
from foveate.ops._operator import Flags, Given
from foveate.ops.window import _triton_kernels as kernels
from foveate.ops.window._arguments import Arguments
from foveate.ops.window.windows import Windows

_KEY = ("D", "DV", "WH", "WW", "SPREAD")
_CHUNKS = 32  # of windows, in the sum that is the bias's gradient; each takes the bias's memory


def forward(a: Arguments, flags: Flags) -> tuple[Tensor, None]:
    """Output ``(B, H, W, h, Dv)``."""
    out = a.v.new_empty((*a.q.shape[:4], a.v.shape[4]))
    if a.q.shape[0]:
        _launch(kernels.forward, a, {"out": out}, "QUERIES")
    return out, None


def backward(given: Given, a: Arguments) -> list[Tensor]:
    """Gradients of q, k, v and, if asked, of the bias."""
    bias_grad = a.bias is not None and given.parameter_grads
    if not a.q.shape[0]:
        return [x.new_zeros(x.shape) for x in (a.q, a.k, a.v, *([a.bias] if bias_grad else []))]
    dq, dk, dv = (x.new_empty(x.shape) for x in (a.q, a.k, a.v))
    lse, delta = (a.q.new_empty(a.q.shape[:4], dtype=torch.float32) for _ in range(2))
    common = {"grad": given.grad_out.contiguous(), "lse": lse, "delta": delta}
    _launch(kernels.query_gradients, a, common | {"dq": dq}, "QUERIES")
    _launch(kernels.key_gradients, a, common | {"dk": dk, "dv": dv}, "KEYS")
    if not bias_grad:
        return [dq, dk, dv]
    return [dq, dk, dv, _bias_gradient(a, a.bias, common)]


def _bias_gradient(a: Arguments, bias: Tensor, common: dict[str, Any]) -> Tensor:
    windows = a.q.shape[0] * _windows(a).count
    chunk = triton.cdiv(windows, _CHUNKS)
    chunks = triton.cdiv(windows, chunk)
    partial = a.q.new_empty((chunks, *bias.shape), dtype=torch.float32)
    own = common | {"partial": partial, "windows": windows, "chunk": chunk}
    cells, heads = bias.shape[1], bias.shape[0]

    def programs(sizes: dict[str, int]) -> int:
        blocks = triton.cdiv(cells, sizes["QUERIES"]) * triton.cdiv(cells, sizes["KEYS"])
        return chunks * heads * blocks

    _triton.launch(kernels.bias_gradients, programs, _configs(a), _KEY, _arguments(a) | own)
    return partial.sum(0).to(bias.dtype)


def _launch(kernel: Any, a: Arguments, own: dict[str, Any], block: str) -> None:
    """Start a kernel on blocks of every window's queries or keys, with its ``own`` arguments."""
    windows = a.q.shape[0] * a.q.shape[3] * _windows(a).count
    cells = a.window_size[0] * a.window_size[1]

    def programs(sizes: dict[str, int]) -> int:
        return windows * triton.cdiv(cells, sizes[block])

    _triton.launch(kernel, programs, _configs(a), _KEY, _arguments(a) | own)


def _windows(a: Arguments) -> Windows:
    (rows, columns), (down, across) = a.window_size, a.shift_size
    return Windows((a.q.shape[1], a.q.shape[2]), (rows, columns), (down, across), a.spread)


def _arguments(a: Arguments) -> dict[str, Any]:
    """What all kernels take."""
    grid = _windows(a).grid
    arguments: dict[str, Any] = {
        "bias": None if a.bias is None else a.bias.contiguous(),
        "seed": None if a.seed is None else a.seed.to(a.q.device),
        "H": a.q.shape[1],
        "W": a.q.shape[2],
        "heads": a.q.shape[3],
        "WH": a.window_size[0],
        "WW": a.window_size[1],
        "GH": grid[0],
        "GW": grid[1],
        "SH": a.shift_size[0],
        "SW": a.shift_size[1],
        "scale": a.scale,
        "threshold": threshold(a.dropout_p),
        "keep_scale": 1 / (1 - a.dropout_p),
        "D": a.q.shape[4],
        "DV": a.v.shape[4],
        "SPREAD": a.spread,
        "PRECISION": _triton.precision(),
        "BLOCK_D": _triton.padded(a.q.shape[4]),
        "BLOCK_DV": _triton.padded(a.v.shape[4]),
    }
    for name, x in (("q", a.q), ("k", a.k), ("v", a.v)):
        strides = zip("byxhd", x.stride(), strict=True)
        arguments |= {name: x} | {f"{name}_{axis}": stride for axis, stride in strides}
    return arguments


def _configs(a: Arguments) -> tuple[triton.Config, ...]:
    """Blocks worth timing: what registers and shared memory hold."""
    if _triton.INTERPRETED:
        return (_config(16, 16, 1, 1),)
    widest = max(_triton.padded(a.q.shape[4]), _triton.padded(a.v.shape[4]))
    return _NARROW if widest * a.q.element_size() <= 128 else _WIDE


def _config(queries: int, keys: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"QUERIES": queries, "KEYS": keys}, num_warps=warps, num_stages=stages)


_NARROW = (
    _config(64, 64, 8, 1),
    _config(64, 64, 8, 2),
    _config(32, 64, 4, 1),
    _config(32, 32, 4, 2),
    _config(128, 64, 8, 1),
)
_WIDE = (_config(32, 32, 8, 1), _config(32, 32, 4, 1), _config(64, 32, 8, 1))
