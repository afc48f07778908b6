"""Local aggregation by the compiled CPU kernels of ``native/aggregate``.

The kernels compute in float32. Weights, of which there are many, are read and written in half
precision where they are; values are converted first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.aggregate._arguments import Arguments
from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, AggregateArguments, TapBorder, View
from foveate.ops.native.tensors import STORAGE, aligned, map_view, rows, run_settings, view


def local_aggregate(a: Arguments, keep: bool) -> tuple[Tensor, Tensor]:
    """Output ``(B, H, W, S, G)`` and, if ``keep``, probabilities ``(B, H, W, taps, G)``."""
    values, weights = rows(a.values.flatten(3)), aligned(a.weights)
    out = torch.empty(a.values.shape, dtype=torch.float32)
    kept = torch.empty(a.weights.shape if keep and a.normalize else 0, dtype=torch.float32)
    library.kernel("aggregate_forward")(_arguments(a, values, weights, kept, out=out.data_ptr()))
    return out.to(a.values.dtype), kept


def local_aggregate_backward(grad_out: Tensor, kept: Tensor, a: Arguments) -> tuple[Tensor, Tensor]:
    """Gradients of values and weights."""
    values, weights = rows(a.values.flatten(3)), aligned(a.weights)
    gradient, kept = rows(grad_out.flatten(3)), kept.contiguous()
    d_values = torch.empty(a.values.shape, dtype=torch.float32)
    d_weights = torch.empty(a.weights.shape, dtype=a.weights.dtype)
    library.kernel("aggregate_backward")(
        _arguments(
            a, values, weights, kept, map_view(gradient),
            d_values=d_values.data_ptr(), d_weights=d_weights.data_ptr(),
        )
    )  # fmt: skip
    return d_values.to(a.values.dtype), d_weights


def _arguments(
    a: Arguments,
    values: Tensor,
    weights: Tensor,
    kept: Tensor,
    grad_out: View = ABSENT,
    **others: Any,
) -> AggregateArguments:
    """All arguments; others are fields by name."""
    batch, height, width, share, groups = a.values.shape
    return AggregateArguments(
        run=run_settings(1.0, 0.0, torch.get_num_threads()),
        values=map_view(values),
        weights=view(weights),
        grad_out=grad_out,
        batch=batch,
        height=height,
        width=width,
        share=share,
        groups=groups,
        kernel_h=a.kernel_size[0],
        kernel_w=a.kernel_size[1],
        dilation_h=a.dilation[0],
        dilation_w=a.dilation[1],
        border=TapBorder[a.border.upper()].value,
        normalize=int(a.normalize),
        storage=STORAGE[a.weights.dtype],
        probabilities=kept.data_ptr() if kept.numel() else 0,
        **others,
    )
