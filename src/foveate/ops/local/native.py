"""Local attention by the compiled CPU kernels of ``native/local``.

The kernels compute in float32 and read and write float32, bfloat16 or float16; only the small
relative tables, the log-sum-exp and its gradient are float32 always. At a "reflect" border they get
keys, values and mask that were padded beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, Bias, Border, LocalArguments, View
from foveate.ops.native.tensors import STORAGE, channels_together, run_settings, view

_BORDERS = {border.name.lower(): border.value for border in Border}
_NO_BIAS, _TABLE, _EACH = (kind.value for kind in (Bias.NONE, Bias.TABLE, Bias.EACH))


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
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, as the portable form gives them."""
    out = torch.empty((*q.shape[:4], v.shape[4]), dtype=q.dtype)
    lse = torch.empty(q.shape[:4], dtype=torch.float32)
    if out.numel():
        k, v, mask = _reflected(k, v, key_mask, kernel_size, dilation, border)
        q, k, v, bias = _readable(q, k, v, bias)
        arguments = _arguments(
            q, k, v, lse, kernel_size, dilation, bias, scale, border, mask, dropout_p, seed,
            out=out.data_ptr(),
        )  # fmt: skip
        library.kernel("local_forward")(arguments)
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
        readable = _readable(q, k, v, bias)
        arguments = _arguments(
            *readable[:3], lse, kernel_size, dilation, readable[3], scale, border, mask,
            dropout_p, seed,
            grad_out=view(grad_out),
            grad_lse=0 if grad_lse is None else grad_lse.data_ptr(),
            dq=dq.data_ptr(),
            dk=dk.data_ptr(),
            dv=dv.data_ptr(),
            d_bias=d_bias.data_ptr() if d_bias.numel() else 0,
        )  # fmt: skip
        library.kernel("local_backward")(arguments)
    if border == "reflect":
        dk = _folded(dk, q.shape, kernel_size, dilation)
        dv = _folded(dv, q.shape, kernel_size, dilation)
    return dq, dk, dv, d_bias.to(bias.dtype) if bias is not None and bias_grad else d_bias


def _arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    grad_out: View = ABSENT,
    **others: Any,
) -> LocalArguments:
    """All arguments; the tensors are as ``_readable`` gives them, others are fields by name."""
    batch, height, width, heads, dim = q.shape
    bias_kind, bias_view, mask_view = _NO_BIAS, ABSENT, ABSENT
    if bias is not None and bias.dim() == 3:
        bias_kind, bias_view = _TABLE, View(bias.data_ptr())
    elif bias is not None:
        bias_kind, bias_view = _EACH, View(bias.data_ptr(), *bias.stride()[:4], 1)
    if key_mask is not None:
        mask_view = View(key_mask.data_ptr(), *key_mask.stride())
    return LocalArguments(
        run=run_settings(scale, dropout_p, seed),
        q=view(q),
        k=view(k),
        v=view(v),
        bias=bias_view,
        key_mask=mask_view,
        grad_out=grad_out,
        lse=lse.data_ptr(),
        batch=batch,
        height=height,
        width=width,
        heads=heads,
        dim=dim,
        value_dim=v.shape[4],
        key_height=k.shape[1],
        key_width=k.shape[2],
        kernel_h=kernel_size[0],
        kernel_w=kernel_size[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        border=_BORDERS[border],
        bias_kind=bias_kind,
        storage=STORAGE[q.dtype],
        bias_storage=STORAGE[q.dtype if bias is None else bias.dtype],
        **others,
    )


def _readable(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tensors as the kernels can read them; must live until these have run."""
    q, k, v = (channels_together(x) for x in (q, k, v))
    return q, k, v, _readable_bias(bias)


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
