"""Floating-point operations of one call, counted operator by operator.

FLOPs are two per multiply-add. Counted are matrix products, convolutions, attention and the
library's own operators, whichever backend runs them; softmax, normalisation, element-wise work and
sampling are not. What has run inside the call counts, a backward pass included, and what a fused
operator computes twice counts twice: the backward of attention makes its logits again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Shape = Sequence[int]


def count_flops(call: nn.Module | Callable[..., Any], *inputs: Any) -> int:
    """FLOPs (two per multiply-add) of ``call(*inputs)``, which is run once.

    Args:
        call: a module or any callable; one that calls ``backward`` has that counted too.
        *inputs: what to call it with.

    It runs with gradients enabled: PyTorch's counter cannot follow views of parameters without.
    Under ``torch.inference_mode`` they cannot be, so count outside of it.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_corrections())
    # A compiled module would hide its operators from the counter.
    call = getattr(call, "_orig_mod", call)
    with _without_transformer_fast_path(), torch.enable_grad(), counter:
        call(*inputs)
    return int(counter.get_total_flops())


@contextmanager
def _without_transformer_fast_path() -> Iterator[None]:
    """Make ``nn.TransformerEncoderLayer`` run operators that can be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _matrix_vector(matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * prod(matrix)


def _add_matrix_vector(added: Shape, matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * prod(matrix)


def _dot(left: Shape, right: Shape, **_: Any) -> int:
    return 2 * prod(left)


def _add_batched(added: Shape, left: Shape, right: Shape, **_: Any) -> int:
    return 2 * prod(left) * right[-1]


def _trilinear(
    left: Shape, weight: Shape, right: Shape, *_: Any, out_shape: Shape, **__: Any
) -> int:
    """``sum_j (sum_i left_i w_oij) right_j``, one sample after the other."""
    return 2 * out_shape[0] * prod(weight) + 2 * prod(out_shape) * right[-1]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any
) -> int:
    """Logits again, then the gradients of weights, values, queries and keys."""
    return 2 * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _convolution_backward(
    grad: Shape,
    x: Shape,
    weight: Shape,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """The gradients of input and weight cost what the forward does, each.

    PyTorch's own formula forgets to divide the latter by ``groups``.
    """
    positions = x[2:] if transposed else grad[2:]
    forward = 2 * x[0] * prod(weight) * prod(positions)
    return forward * (bool(wanted[0]) + bool(wanted[1]))


def _corrections() -> dict[Any, Callable[..., int]]:
    """Formulas for the operators that PyTorch counts as 0 in some release, or counts wrongly."""
    attention = ("flash_attention_for_cpu", "attention_math_for_mps")
    attention += ("fused_attention_overrideable",)
    formulas: dict[str, Callable[..., int]] = {
        "mv": _matrix_vector,
        "addmv": _add_matrix_vector,
        "dot": _dot,
        "vdot": _dot,
        "addbmm": _add_batched,
        "_trilinear": _trilinear,
        "convolution_backward": _convolution_backward,
        **{f"_scaled_dot_product_{name}": _attention for name in attention},
        **{f"_scaled_dot_product_{name}_backward": _attention_backward for name in attention},
    }
    aten = torch.ops.aten
    return {getattr(aten, name): f for name, f in formulas.items() if hasattr(aten, name)}
