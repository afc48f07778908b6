"""Window attention by the compiled CPU kernels of ``native/window``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, View, WindowArguments
from foveate.ops.native.tensors import STORAGE, aligned, channels_together, run_settings, view
from foveate.ops.window.windows import Windows

MOST_CELLS = 1024
"""Cells of a part beyond which its matrix of weights leaves the caches."""


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
    arguments = _arguments(
        maps, part, shift, spread, table, scale, dropout_p, seed, out=out.data_ptr()
    )
    library.kernel("window_forward")(arguments)
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
    arguments = _arguments(
        maps, part, shift, spread, table, scale, dropout_p, seed,
        grad_out=view(gradient),
        dq=grads[0].data_ptr(),
        dk=grads[1].data_ptr(),
        dv=grads[2].data_ptr(),
        d_bias=d_table.data_ptr() if d_table.numel() else 0,
    )  # fmt: skip
    library.kernel("window_backward")(arguments)
    d_bias = q.new_empty(0)
    if bias is not None and bias_grad:
        d_bias = d_table.mT.contiguous().to(bias.dtype)
    return grads[0], grads[1], grads[2], d_bias


def _rows(x: Tensor) -> Tensor:
    return aligned(channels_together(x))


def _table(bias: Tensor | None) -> Tensor | None:
    """``bias (h, T, T)`` as ``(h, key, query)``; a bias that was laid out so is read in place."""
    return None if bias is None else bias.detach().to(torch.float32).mT.contiguous()


def _arguments(
    maps: list[Tensor],
    part: list[int],
    shift: list[int],
    spread: bool,
    table: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: View = ABSENT,
    **others: Any,
) -> WindowArguments:
    """All arguments; others are fields by name."""
    q, k, v = maps
    batch, height, width, heads, dim = q.shape
    grid = Windows((height, width), (part[0], part[1])).grid
    return WindowArguments(
        run=run_settings(scale, dropout_p, seed),
        q=view(q),
        k=view(k),
        v=view(v),
        grad_out=grad_out,
        batch=batch,
        height=height,
        width=width,
        heads=heads,
        dim=dim,
        value_dim=v.shape[4],
        window_h=part[0],
        window_w=part[1],
        windows_h=grid[0],
        windows_w=grid[1],
        shift_h=shift[0],
        shift_w=shift[1],
        spread=int(spread),
        storage=STORAGE[q.dtype],
        bias=0 if table is None else table.data_ptr(),
        **others,
    )
