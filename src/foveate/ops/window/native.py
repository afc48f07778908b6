"""Attention inside parts by the compiled CPU kernels: packs the arguments of ``native/window.c``.

They compute in float32; half precision is widened before and rounded after.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops import _dropout
from foveate.ops.native import library
from foveate.ops.window.parts import Parts

MOST_CELLS = 1024
"""Cells of a part beyond which its matrix of weights leaves the caches."""

_LANES = 16  # a row of the bias is padded to a multiple of this
_COMMON = "6q4q3q3q4q4q4q2q4q2d"


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: list[int],
    shift: list[int],
    spread: bool,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """Output ``(B, H, W, h, Dv)``."""
    maps, table = _rows(q, k, v), _table(bias)
    out = torch.empty((*q.shape[:4], v.shape[4]))
    library.kernel("window_forward", _COMMON + "q")(
        *_common(maps, part, shift, spread, table, scale, dropout_p, seed), out.data_ptr()
    )
    return out.to(v.dtype)


def window_attention_backward(
    grad_out: Tensor,
    bias_grad: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: list[int],
    shift: list[int],
    spread: bool,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and, if ``bias_grad``, of the bias."""
    maps, table = _rows(q, k, v), _table(bias)
    (gradient,) = _rows(grad_out)
    grads = [torch.empty(x.shape) for x in (q, k, v)]
    d_table = torch.empty(table.shape if table is not None and bias_grad else 0)
    library.kernel("window_backward", _COMMON + "q5q3qq")(
        *_common(maps, part, shift, spread, table, scale, dropout_p, seed),
        0,
        gradient.data_ptr(),
        *gradient.stride()[:4],
        *(grad.data_ptr() for grad in grads),
        d_table.data_ptr() if d_table.numel() else 0,
    )
    d_bias = q.new_empty(0)
    if bias is not None and bias_grad:
        d_bias = d_table[..., : bias.shape[1]].mT.to(bias.dtype)
    dq, dk, dv = (grad.to(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))
    return dq, dk, dv, d_bias


def _rows(*maps: Tensor) -> list[Tensor]:
    """The maps in float32, the channels of a head side by side."""
    maps = tuple(x.to(torch.float32) for x in maps)
    return [x if x.stride(4) == 1 or x.shape[4] == 1 else x.contiguous() for x in maps]


def _table(bias: Tensor | None) -> Tensor | None:
    """``bias (h, T, T)`` as ``(h, key, query)``, for logits that are powers of two."""
    if bias is None:
        return None
    table = bias.detach().to(torch.float32).mT * math.log2(math.e)
    return F.pad(table, (0, -table.shape[2] % _LANES)).contiguous()


def _common(
    maps: list[Tensor],
    part: list[int],
    shift: list[int],
    spread: bool,
    table: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[int | float, ...]:
    """The fields that both kernels take."""
    q, v = maps[0], maps[2]
    grid = Parts((q.shape[1], q.shape[2]), (part[0], part[1])).grid
    word = 0 if seed is None else int(seed)
    return (
        *q.shape,
        v.shape[4],
        *part,
        *grid,
        *shift,
        int(spread),
        *(x.data_ptr() for x in maps),
        *(stride for x in maps for stride in x.stride()[:4]),
        0 if table is None else table.data_ptr(),
        0 if table is None else table.stride(1),
        torch.get_num_threads(),
        word & 0xFFFFFFFF,
        word >> 32,
        _dropout.threshold(dropout_p),
        scale,
        1 / (1 - dropout_p) if dropout_p else 0.0,
    )
