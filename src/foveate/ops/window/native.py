"""Attention inside parts by the compiled CPU kernels: packs the arguments of ``native/window.c``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.tensors import STORAGE, aligned, channels_together, run_settings
from foveate.ops.window.windows import Windows

MOST_CELLS = 1024
"""Cells of a part beyond which its matrix of weights leaves the caches."""

_COMMON = "6q4q4q3q12qq4q2d"  # fv_window in native/window.c


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
    maps, table = [_rows(x) for x in (q, k, v)], _table(bias)
    out = torch.empty(v.shape, dtype=v.dtype)
    library.kernel("window_forward", _COMMON + "q")(
        *_common(maps, part, shift, spread, table, scale, dropout_p, seed), out.data_ptr()
    )
    return out


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
    maps, table = [_rows(x) for x in (q, k, v)], _table(bias)
    gradient = _rows(grad_out)
    grads = [torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v)]
    d_table = torch.empty(
        table.shape if table is not None and bias_grad else 0, dtype=torch.float32
    )  # fmt: skip
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
        d_bias = d_table.mT.contiguous().to(bias.dtype)
    return grads[0], grads[1], grads[2], d_bias


def _rows(x: Tensor) -> Tensor:
    return aligned(channels_together(x))


def _table(bias: Tensor | None) -> Tensor | None:
    """``bias (h, T, T)`` as ``(h, key, query)``; a bias that was laid out so is read in place."""
    return None if bias is None else bias.detach().to(torch.float32).mT.contiguous()


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
    grid = Windows((q.shape[1], q.shape[2]), (part[0], part[1])).grid
    return (
        *q.shape,
        v.shape[4],
        *part,
        *grid,
        *shift,
        int(spread),
        STORAGE[q.dtype],
        *(x.data_ptr() for x in maps),
        *(stride for x in maps for stride in x.stride()[:4]),
        0 if table is None else table.data_ptr(),
        *run_settings(scale, dropout_p, seed),
    )
