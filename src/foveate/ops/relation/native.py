"""Local relations by the compiled CPU kernels of ``native/relation``.

The relation, which is large, is written in half precision where it is, and its gradient read so;
queries and keys are converted first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import Relation, RelationArguments, TapBorder
from foveate.ops.native.tensors import STORAGE, aligned, map_view, rows, run_settings
from foveate.ops.relation._arguments import Arguments, output

_GRADS = ("dq", "dk", "d_scale", "d_shift")


def local_relation(a: Arguments) -> Tensor:
    """The relation of checked arguments."""
    q, k, out, affine = rows(a.q), rows(a.k), output(a), _affine(a)
    library.kernel("relation_forward")(_arguments(a, q, k, affine, out=out.data_ptr()))
    return out


def local_relation_backward(grad_out: Tensor, affine_grads: bool, a: Arguments) -> list[Tensor]:
    """Gradients of q, k and, if ``affine_grads``, of scale and shift."""
    q, k, affine = rows(a.q), rows(a.k), _affine(a)
    gradient = aligned(grad_out.contiguous())
    given = [a.q, a.k, *((a.scale, a.shift) if affine_grads else ())]
    grads = [torch.zeros(x.shape, dtype=torch.float32) for x in given if x is not None]
    addresses = dict(zip(_GRADS, (grad.data_ptr() for grad in grads), strict=False))
    library.kernel("relation_backward")(
        _arguments(a, q, k, affine, grad_out=gradient.data_ptr(), **addresses)
    )
    return [grad.to(x.dtype) for grad, x in zip(grads, given, strict=True) if x is not None]


def _affine(a: Arguments) -> tuple[Tensor, ...]:
    """Scale and shift, if there are any, in float32."""
    if a.scale is None or a.shift is None:
        return ()
    return tuple(aligned(x.detach().to(torch.float32).contiguous()) for x in (a.scale, a.shift))


def _arguments(
    a: Arguments, q: Tensor, k: Tensor, affine: tuple[Tensor, ...], **others: Any
) -> RelationArguments:
    """All arguments; others are fields by name."""
    batch, height, width, dim = a.q.shape
    return RelationArguments(
        run=run_settings(1.0, 0.0, torch.get_num_threads()),
        q=map_view(q),
        k=map_view(k),
        batch=batch,
        height=height,
        width=width,
        dim=dim,
        kernel_h=a.kernel_size[0],
        kernel_w=a.kernel_size[1],
        dilation_h=a.dilation[0],
        dilation_w=a.dilation[1],
        border=TapBorder[a.border.upper()].value,
        relation=Relation[a.relation.upper()].value,
        storage=STORAGE[a.q.dtype],
        **dict(zip(("scale", "shift"), (x.data_ptr() for x in affine), strict=False)),
        **others,
    )
