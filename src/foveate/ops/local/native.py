"""Local attention by the compiled CPU kernels: packs the arguments of ``native/local.c``.

The kernels compute in float32 and read and write float32, bfloat16 or float16; only the small
relative tables, the log-sum-exp and its gradient are float32 always. A reflected border is a map of
keys that was padded beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.tensors import STORAGE, channels_together, run_settings

_BORDERS = {"shift": 0, "zero": 1, "mask": 2, "reflect": 3}
_LAYOUT = "13q23q8q9q3q2d"  # fv_local in native/local_map.h
_NONE = (0, 0, 0, 0)


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
    settings = _settings(q, kernel_size, dilation, bias, scale, border, dropout_p, seed)
    if out.numel():
        k, v, mask = _reflected(k, v, key_mask, kernel_size, dilation, border)
        _call("local_forward", q, k, v, bias, mask, settings, out=out, lse=lse)
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
    settings = _settings(q, kernel_size, dilation, bias, scale, border, dropout_p, seed)
    k, v, mask = _reflected(k, v, key_mask, kernel_size, dilation, border)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    d_bias = torch.empty(0, dtype=q.dtype)
    if bias is not None and bias_grad:
        d_bias = torch.zeros(bias.shape, dtype=torch.float32 if bias.dim() == 3 else bias.dtype)
    if q.numel():
        _call(
            "local_backward", q, k, v, bias, mask, settings,
            lse=lse.contiguous(), grad_out=channels_together(grad_out),
            grad_lse=None if grad_lse is None else grad_lse.contiguous(),
            dq=dq, dk=dk, dv=dv, d_bias=d_bias if bias_grad else None,
        )  # fmt: skip
    if border == "reflect":
        dk = _folded(dk, q.shape, kernel_size, dilation)
        dv = _folded(dv, q.shape, kernel_size, dilation)
    return dq, dk, dv, d_bias.to(bias.dtype) if bias is not None and bias_grad else d_bias


def _call(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    settings: tuple[float, ...],
    *,
    out: Tensor | None = None,
    lse: Tensor,
    grad_out: Tensor | None = None,
    grad_lse: Tensor | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    d_bias: Tensor | None = None,
) -> None:
    """Run a kernel; the order is that of ``fv_local``."""
    q, k, v = (channels_together(x) for x in (q, k, v))
    bias = _readable_bias(bias)
    tensors = (q, k, v, out, lse, bias, key_mask, grad_out, grad_lse, dq, dk, dv, d_bias)
    per_query = bias is not None and bias.dim() == 6
    library.kernel(name, _LAYOUT)(
        *(0 if x is None else x.data_ptr() for x in tensors),
        *q.stride()[:4],
        *k.stride()[:4],
        *v.stride()[:4],
        *(_NONE if grad_out is None else grad_out.stride()[:4]),
        *(bias.stride()[:4] if per_query else _NONE),
        *(_NONE[:3] if key_mask is None else key_mask.stride()),
        *q.shape,
        v.shape[4],
        *k.shape[1:3],
        *settings,
    )


def _settings(
    q: Tensor,
    kernel_size: list[int],
    dilation: list[int],
    bias: Tensor | None,
    scale: float,
    border: str,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[float, ...]:
    bias_kind = 0 if bias is None else 1 if bias.dim() == 3 else 2
    return (
        *kernel_size, *dilation, _BORDERS[border], bias_kind, STORAGE[q.dtype],
        STORAGE[q.dtype if bias is None else bias.dtype], *run_settings(scale, dropout_p, seed),
    )  # fmt: skip


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
