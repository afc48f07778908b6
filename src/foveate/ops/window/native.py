"""Window attention by the compiled CPU kernels of ``native/window``.

Maps may be in half precision; the kernels compute in float32.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import WindowArguments, as_words, places
from foveate.ops.native.tensors import (
    STORAGE,
    Plan,
    aligned,
    channels_together,
    plan,
    planned_view,
    run_settings,
    set_seed,
)
from foveate.ops.window.windows import Windows

_Q, _K, _V, _GRAD_OUT, _BIAS, _OUT, _DQ, _DK, _DV, _D_BIAS, _SEED = places(
    WindowArguments, "q", "k", "v", "grad_out", "bias", "out", "dq", "dk", "dv", "d_bias",
    "run.seed_low",
)  # fmt: skip

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
    out = v.new_empty(v.shape)
    words = _words(maps, part, shift, spread, table, scale, dropout_p, seed)
    words[_OUT] = out.data_ptr()
    library.kernel("window_forward")(words)
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
    words = _words(maps, part, shift, spread, table, scale, dropout_p, seed, gradient)
    words[_GRAD_OUT] = gradient.data_ptr()
    words[_DQ], words[_DK], words[_DV] = (grad.data_ptr() for grad in grads)
    words[_D_BIAS] = d_table.data_ptr() if d_table.numel() else 0
    library.kernel("window_backward")(words)
    d_bias = q.new_empty(0)
    if bias is not None and bias_grad:
        d_bias = d_table.mT.contiguous().to(bias.dtype)
    return grads[0], grads[1], grads[2], d_bias


def _rows(x: Tensor) -> Tensor:
    return aligned(channels_together(x))


def _table(bias: Tensor | None) -> Tensor | None:
    """``bias (h, T, T)`` as ``(h, key, query)``; a bias that was laid out so is read in place."""
    return None if bias is None else bias.detach().to(torch.float32).mT.contiguous()


def _words(
    maps: list[Tensor],
    part: Sequence[int],
    shift: Sequence[int],
    spread: bool,
    table: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: Tensor | None = None,
) -> array[int]:
    """All arguments but addresses of results; the tensors must live until the kernel has run."""
    q, k, v = maps
    words = _planned(
        plan(q), plan(k), plan(v), plan(grad_out), tuple(part), tuple(shift), spread, scale,
        dropout_p, torch.get_num_threads(),
    )[:]  # fmt: skip
    words[_Q], words[_K], words[_V] = q.data_ptr(), k.data_ptr(), v.data_ptr()
    words[_BIAS] = 0 if table is None else table.data_ptr()
    if dropout_p:
        set_seed(words, _SEED, seed)
    return words


@lru_cache(maxsize=256)
def _planned(
    q: Plan,
    k: Plan,
    v: Plan,
    grad_out: Plan | None,
    part: tuple[int, ...],
    shift: tuple[int, ...],
    spread: bool,
    scale: float,
    dropout_p: float,
    threads: int,
) -> array[int]:
    """Everything that a kernel is told but addresses and seed: mostly as in a call before."""
    batch, height, width, heads, dim = q[0]
    grid = Windows((height, width), (part[0], part[1])).grid
    return as_words(
        WindowArguments(
            run=run_settings(scale, dropout_p, threads),
            q=planned_view(q),
            k=planned_view(k),
            v=planned_view(v),
            grad_out=planned_view(grad_out),
            batch=batch,
            height=height,
            width=width,
            heads=heads,
            dim=dim,
            value_dim=v[0][4],
            window_h=part[0],
            window_w=part[1],
            windows_h=grid[0],
            windows_w=grid[1],
            shift_h=shift[0],
            shift_w=shift[1],
            spread=int(spread),
            storage=STORAGE[q[2]],
        )
    )
