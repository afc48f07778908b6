"""Local attention by the compiled CPU kernels of ``native/local``.

The kernels compute in float32 and read and write float32, bfloat16 or float16; only the small
relative tables, the log-sum-exp and its gradient are float32 always. At a "reflect" border they get
keys, values and mask that were padded beforehand.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import (
    ABSENT,
    Bias,
    Border,
    LocalArguments,
    View,
    as_words,
    places,
)
from foveate.ops.native.tensors import (
    STORAGE,
    Plan,
    channels_together,
    plan,
    planned_view,
    run_settings,
    set_seed,
)

_BORDERS = {border.name.lower(): border.value for border in Border}
_NO_BIAS, _TABLE, _EACH = (kind.value for kind in (Bias.NONE, Bias.TABLE, Bias.EACH))
_Q, _K, _V, _BIAS, _KEY_MASK, _GRAD_OUT, _LSE, _OUT, _GRAD_LSE, _DQ, _DK, _DV, _D_BIAS, _SEED = (
    places(
        LocalArguments, "q", "k", "v", "bias", "key_mask", "grad_out", "lse", "out", "grad_lse",
        "dq", "dk", "dv", "d_bias", "run.seed_low",
    )
)  # fmt: skip


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    keep: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Output and, if it is to be kept, the log-sum-exp, as the portable form gives them."""
    out = v.new_empty(v.shape)
    lse = q.new_empty(q.shape[:4], dtype=torch.float32) if keep else None
    if out.numel():
        k, v, mask = _reflected(k, v, key_mask, kernel_size, dilation, border)
        words, _kept = _words(
            q, k, v, lse, kernel_size, dilation, bias, scale, border, mask, dropout_p, seed
        )
        words[_OUT] = out.data_ptr()
        library.kernel("local_forward")(words)
    return out, lse


def local_attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    lse: Tensor,
    bias_grad: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and, if asked, of the bias; else an empty tensor in its place."""
    k, v, mask = _reflected(k, v, key_mask, kernel_size, dilation, border)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    d_bias = torch.empty(0, dtype=q.dtype)
    if bias is not None and bias_grad:
        d_bias = torch.zeros(bias.shape, dtype=torch.float32 if bias.dim() == 3 else bias.dtype)
    if q.numel():
        grad_out, lse = channels_together(grad_out), lse.contiguous()
        grad_lse = None if grad_lse is None else grad_lse.contiguous()
        words, _kept = _words(
            q,
            k,
            v,
            lse,
            kernel_size,
            dilation,
            bias,
            scale,
            border,
            mask,
            dropout_p,
            seed,
            grad_out,
        )
        words[_GRAD_OUT] = grad_out.data_ptr()
        words[_GRAD_LSE] = 0 if grad_lse is None else grad_lse.data_ptr()
        words[_DQ], words[_DK], words[_DV] = dq.data_ptr(), dk.data_ptr(), dv.data_ptr()
        words[_D_BIAS] = d_bias.data_ptr() if d_bias.numel() else 0
        library.kernel("local_backward")(words)
    if border == "reflect":
        dk = _folded(dk, q.shape, kernel_size, dilation)
        dv = _folded(dv, q.shape, kernel_size, dilation)
    return dq, dk, dv, d_bias.to(bias.dtype) if bias is not None and bias_grad else d_bias


def _words(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: Tensor | None = None,
) -> tuple[array[int], tuple[Tensor | None, ...]]:
    """All arguments but addresses of results; and what must live until the kernel has run."""
    q, k, v = channels_together(q), channels_together(k), channels_together(v)
    bias = _readable_bias(bias)
    words = _planned(
        plan(q), plan(k), plan(v), plan(bias), plan(key_mask), plan(grad_out),
        tuple(kernel_size), tuple(dilation), scale, border, dropout_p, torch.get_num_threads(),
    )[:]  # fmt: skip
    words[_Q], words[_K], words[_V] = q.data_ptr(), k.data_ptr(), v.data_ptr()
    if lse is not None:
        words[_LSE] = lse.data_ptr()
    if bias is not None:
        words[_BIAS] = bias.data_ptr()
    if key_mask is not None:
        words[_KEY_MASK] = key_mask.data_ptr()
    if dropout_p:
        set_seed(words, _SEED, seed)
    return words, (q, k, v, bias)


@lru_cache(maxsize=256)
def _planned(
    q: Plan,
    k: Plan,
    v: Plan,
    bias: Plan | None,
    key_mask: Plan | None,
    grad_out: Plan | None,
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
    scale: float,
    border: str,
    dropout_p: float,
    threads: int,
) -> array[int]:
    """Everything that a kernel is told but addresses and seed: mostly as in a call before."""
    batch, height, width, heads, dim = q[0]
    bias_kind, bias_view = _NO_BIAS, ABSENT
    if bias is not None and len(bias[0]) == 3:
        bias_kind = _TABLE
    elif bias is not None:
        bias_kind, bias_view = _EACH, View(0, *bias[1][:4], 1)
    return as_words(
        LocalArguments(
            run=run_settings(scale, dropout_p, threads),
            q=planned_view(q),
            k=planned_view(k),
            v=planned_view(v),
            bias=bias_view,
            key_mask=planned_view(key_mask),
            grad_out=planned_view(grad_out),
            lse=0,
            batch=batch,
            height=height,
            width=width,
            heads=heads,
            dim=dim,
            value_dim=v[0][4],
            key_height=k[0][1],
            key_width=k[0][2],
            kernel_h=kernel_size[0],
            kernel_w=kernel_size[1],
            dilation_h=dilation[0],
            dilation_w=dilation[1],
            border=_BORDERS[border],
            bias_kind=bias_kind,
            storage=STORAGE[q[2]],
            bias_storage=STORAGE[(bias or q)[2]],
        )
    )


def _readable_bias(bias: Tensor | None) -> Tensor | None:
    """A table in float32, contiguous; numbers per query with neighbouring slots."""
    if bias is None or bias.dim() == 3:
        return None if bias is None else bias.float().contiguous()
    rows_touch = bias.shape[4] == 1 or bias.stride(4) == bias.shape[5]
    cells_touch = bias.shape[5] == 1 or bias.stride(5) == 1
    return bias if rows_touch and cells_touch else bias.contiguous()


def _reflected(
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    kernel_size: list[int],
    dilation: list[int],
    border: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with their mirrored surroundings."""
    if border != "reflect":
        return k, v, key_mask
    for axis in (0, 1):
        index = _reflected_positions(k.shape[1 + axis], kernel_size[axis], dilation[axis])
        k, v = k.index_select(1 + axis, index), v.index_select(1 + axis, index)
        key_mask = None if key_mask is None else key_mask.index_select(1 + axis, index)
    return k, v, key_mask


def _folded(grad: Tensor, shape: torch.Size, kernel: list[int], dilation: list[int]) -> Tensor:
    """What a mirrored map's gradient sums to on the map."""
    dtype, grad = grad.dtype, grad.float()
    for axis in (0, 1):
        index = _reflected_positions(shape[1 + axis], kernel[axis], dilation[axis])
        size = [*grad.shape]
        size[1 + axis] = shape[1 + axis]
        grad = grad.new_zeros(size).index_add_(1 + axis, index, grad)
    return grad.to(dtype)


def _reflected_positions(length: int, kernel: int, dilation: int) -> Tensor:
    """Where the positions of a mirrored axis come from."""
    before = kernel // 2 * dilation
    after = (kernel - 1 - kernel // 2) * dilation
    position = torch.arange(-before, length + after).abs()
    return length - 1 - (length - 1 - position).abs()
