"""The narrow convolution by the compiled CPU kernel ``native/gates/narrow_conv.c``, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.layout import in_format, memory_format
from foveate.ops.narrow_conv._arguments import Arguments
from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, NarrowConvArguments, View
from foveate.ops.native.tensors import aligned, channels_together


def narrow_conv(a: Arguments) -> Tensor:
    """``(B, O, H, W)``."""
    out = torch.empty(a.x.shape[0], a.weight.shape[0], *a.x.shape[2:])
    _run("narrow_conv_forward", a, out=out.data_ptr())
    return in_format(out, memory_format(a.x))


def narrow_conv_backward(grad_out: Tensor, weight_grad: bool, a: Arguments) -> list[Tensor]:
    """Gradients of x and, if ``weight_grad``, of the weight."""
    dx, d_weight = torch.empty(a.x.shape), torch.empty(a.weight.shape if weight_grad else 0)
    gradient = _rows(grad_out)
    addresses = {"dx": dx.data_ptr(), "d_weight": d_weight.data_ptr() if weight_grad else 0}
    _run("narrow_conv_backward", a, grad_out=_view(gradient), **addresses)
    grads = [in_format(dx, memory_format(a.x))]
    return [*grads, in_format(d_weight, memory_format(a.weight))] if weight_grad else grads


def _run(kernel: str, a: Arguments, grad_out: View = ABSENT, **addresses: Any) -> None:
    x, weight = _rows(a.x), aligned(a.weight.contiguous())
    arguments = NarrowConvArguments(
        _view(x),
        grad_out,
        torch.get_num_threads(),
        x.shape[0],
        x.shape[2],
        x.shape[3],
        weight.shape[1],
        weight.shape[0],
        weight.shape[2],
        weight.shape[3],
        weight.data_ptr(),
        **addresses,
    )
    library.kernel(kernel)(arguments)


def _rows(x: Tensor) -> Tensor:
    return aligned(channels_together(x))


def _view(x: Tensor) -> View:
    """A map ``(B, channels, H, W)``."""
    image, channel, row, column = x.stride()
    return View(x.data_ptr(), image, row, column, channel)
