"""Local relations by the compiled CPU kernels of ``native/relation``.

The relation, which is large, is written in half precision where it is, and its gradient read so;
queries and keys are converted first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops.native import library
from foveate.ops.native.interface import ABSENT, Relation, RelationArguments, TapBorder, View
from foveate.ops.native.tensors import STORAGE, aligned, map_view, rows, run_settings
from foveate.ops.relation._arguments import Arguments, output


def local_relation(a: Arguments) -> Tensor:
    """The relation of checked arguments."""
    q, k, out = rows(a.q), rows(a.k), output(a)
    library.kernel("relation_forward")(_arguments(a, map_view(q), map_view(k), out=out.data_ptr()))
    return out


def local_relation_backward(grad_out: Tensor, a: Arguments) -> tuple[Tensor, Tensor]:
    """Gradients of q and k."""
    gradient = aligned(grad_out.contiguous())
    grads = [torch.empty(a.q.shape, dtype=torch.float32) for _ in range(2)]
    library.kernel("relation_backward")(
        _arguments(
            a, ABSENT, ABSENT,
            grad_out=gradient.data_ptr(), dq=grads[0].data_ptr(), dk=grads[1].data_ptr(),
        )
    )  # fmt: skip
    return grads[0].to(a.q.dtype), grads[1].to(a.q.dtype)


def _arguments(a: Arguments, q: View, k: View, **others: Any) -> RelationArguments:
    """All arguments; others are fields by name."""
    batch, height, width, dim = a.q.shape
    return RelationArguments(
        run=run_settings(1.0, 0.0, torch.get_num_threads()),
        q=q,
        k=k,
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
        **others,
    )
