"""Local attention on GPUs: starts the Triton kernels, forward and backward.

A program has one head of one image and a tile of queries. The keys that the windows of its queries
reach form a rectangle, the tile's halo, which is read in blocks of keys in row-major order, in
place; a block is a dense product, masked to each query's own window, and meets the others in a
running softmax. Borders decide where a window starts, which part of the halo is read, and whether
what lies outside is attended; a dilated map is handled class by class.

``_triton_geometry.py`` has what the kernels share, ``_triton_forward.py`` and
``_triton_backward.py`` have the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from foveate.ops import _triton
from foveate.ops._dropout import threshold
from foveate.ops._operator import Flags, Given
from foveate.ops.local import _triton_backward, _triton_forward
from foveate.ops.local._arguments import Arguments

_KEY = ("D", "DV", "KH", "KW", "DIL_H", "DIL_W", "BORDER", "BIAS")


def forward(a: Arguments, flags: Flags) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, as the portable form gives them."""
    out = a.v.new_empty((*a.q.shape[:4], a.v.shape[4]))
    lse = a.q.new_empty(a.q.shape[:4], dtype=torch.float32)
    if a.q.shape[0]:
        _launch(_triton_forward.forward, a, {"out": out, "lse": lse})
    return out, lse


def backward(given: Given, a: Arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and, if asked, of the bias; else an empty tensor in its place."""
    q, k, v, bias = a.q, a.k, a.v, a.bias
    bias_grad = bias is not None and given.parameter_grads
    margin = [size - 1 if a.border == "reflect" else 0 for size in a.kernel_size]
    grown = [
        length + more * step
        for length, more, step in zip(q.shape[1:3], margin, a.dilation, strict=True)
    ]
    dq = q.new_empty(q.shape)
    dk = k.new_empty((k.shape[0], *grown, *k.shape[3:]))
    dv = v.new_empty((v.shape[0], *grown, *v.shape[3:]))
    delta = torch.empty_like(given.kept)
    # Taps that may not be attended are never written.
    d_bias = bias.new_zeros(bias.shape) if bias_grad else q.new_empty(0)
    if q.shape[0]:
        common = {"grad": given.grad_out.contiguous(), "lse": given.kept, "delta": delta}
        of_queries = common | {
            "out": given.out,
            "dq": dq,
            "d_each": d_bias if bias_grad and bias.dim() == 6 else None,
            "grad_lse": None if given.grad_kept is None else given.grad_kept.contiguous(),
        }
        _launch(_triton_backward.query_gradients, a, of_queries)
        of_keys = common | {"dk": dk, "dv": dv}
        _launch(
            _triton_backward.key_gradients, a, of_keys, margin, _configs(q, v, of_keys=True)
        )  # fmt: skip
        if bias_grad and bias.dim() == 3:
            d_bias = _table_gradient(a, bias, common)
    if a.border == "reflect":
        dk, dv = (_folded(x, a.kernel_size, a.dilation) for x in (dk, dv))
    return dq, dk, dv, d_bias


def _table_gradient(a: Arguments, table: Tensor, common: dict[str, Any]) -> Tensor:
    """The table's gradient, summed over the tiles' own."""
    programs = _triton.tiles(a.q, a.dilation)(_TABLE_CONFIGS[0].kwargs)
    shape = (programs // a.q.shape[3], *table.shape)
    partial = a.q.new_zeros(shape, dtype=torch.float32)
    of_table = common | {"partial": partial}
    _launch(_triton_backward.table_gradients, a, of_table, configs=_TABLE_CONFIGS)
    return partial.sum(0).to(table.dtype)


def _launch(
    kernel: Any,
    a: Arguments,
    own: dict[str, Any],
    margin: Sequence[int] = (0, 0),
    configs: tuple[triton.Config, ...] | None = None,
) -> None:
    """Start a kernel with what all are given and its ``own``, a program a tile of the grown map."""
    programs = _triton.tiles(a.q, a.dilation, margin)
    _triton.launch(kernel, programs, configs or _configs(a.q, a.v), _KEY, _shared(a) | own)


def _shared(a: Arguments) -> dict[str, Any]:
    """What every kernel is given."""
    strides = {
        f"{name}_{axis}": stride
        for name, x in (("q", a.q), ("k", a.k), ("v", a.v))
        for axis, stride in zip("byxhd", x.stride(), strict=True)
    }
    return strides | {
        "q": a.q,
        "k": a.k,
        "v": a.v,
        "bias": None if a.bias is None else a.bias.contiguous(),
        "key_mask": None if a.key_mask is None else a.key_mask.contiguous(),
        "seed": None if a.seed is None else a.seed.to(a.q.device),
        "H": a.q.shape[1],
        "W": a.q.shape[2],
        "heads": a.q.shape[3],
        "scale": a.scale,
        "threshold": threshold(a.dropout_p),
        "keep_scale": 1 / (1 - a.dropout_p),
        "D": a.q.shape[4],
        "DV": a.v.shape[4],
        "KH": a.kernel_size[0],
        "KW": a.kernel_size[1],
        "DIL_H": a.dilation[0],
        "DIL_W": a.dilation[1],
        "BORDER": a.border,
        "BIAS": "none" if a.bias is None else "table" if a.bias.dim() == 3 else "each",
        "PRECISION": _triton.precision(),
        "BLOCK_D": _triton.padded(a.q.shape[4]),
        "BLOCK_DV": _triton.padded(a.v.shape[4]),
    }


def _configs(q: Tensor, v: Tensor, *, of_keys: bool = False) -> tuple[triton.Config, ...]:
    """Tiles and blocks worth timing: those that registers and shared memory hold."""
    if _triton.INTERPRETED:
        return (_config(8, 4, 32, 1, 1),)
    weight = max(_triton.padded(q.shape[4]), _triton.padded(v.shape[4])) * q.element_size()
    if of_keys:  # two sums a cell
        weight *= 2
    if q.dtype is torch.float32:  # operands of its products lie in registers
        weight *= 2
    return next(configs for most, configs in _CONFIGS if weight <= most)


def _config(tile_h: int, tile_w: int, keys: int, warps: int, stages: int) -> triton.Config:
    sizes = {"TILE_H": tile_h, "TILE_W": tile_w, "KEYS": keys}
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


_CONFIGS = (
    (
        128,
        (
            _config(4, 8, 32, 2, 2),
            _config(4, 8, 32, 2, 3),
            _config(8, 8, 32, 4, 2),
            _config(8, 8, 64, 4, 2),
            _config(8, 8, 64, 4, 3),
            _config(8, 16, 32, 4, 2),
            _config(8, 16, 64, 8, 2),
        ),
    ),
    (
        256,
        (
            _config(4, 8, 32, 2, 2),
            _config(8, 8, 32, 4, 2),
            _config(8, 8, 32, 8, 2),
            _config(8, 8, 64, 8, 2),
            _config(8, 16, 32, 8, 2),
        ),
    ),
    (512, (_config(8, 8, 32, 8, 2), _config(4, 8, 32, 4, 2), _config(8, 8, 32, 4, 1))),
    (1024, (_config(4, 4, 16, 4, 2), _config(4, 8, 16, 4, 1), _config(4, 8, 32, 8, 2))),
    (4096, (_config(4, 4, 16, 4, 2), _config(4, 4, 16, 8, 1), _config(4, 8, 16, 8, 1))),
)


# One tile for all: the number of tiles is that of the partial sums.
_TABLE_CONFIGS = (triton.Config({"TILE_H": 8, "TILE_W": 8}, num_warps=4),)


def _folded(grad: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What the gradient of a map and its mirrored surroundings sums to on the map."""
    dtype = grad.dtype
    for axis, (size, step) in enumerate(zip(kernel, dilation, strict=True), start=1):
        before, after = size // 2 * step, (size - 1 - size // 2) * step
        length = grad.shape[axis] - before - after
        first, middle, last = grad.split([before, length, after], axis)
        grad = middle.float()
        grad.narrow(axis, 1, before).add_(first.flip(axis))
        grad.narrow(axis, length - 1 - after, after).add_(last.flip(axis))
    return grad.to(dtype).contiguous()
