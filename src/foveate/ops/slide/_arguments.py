"""What every body of slide attention takes, and the shape of what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """Checked arguments of slide attention; the public function documents them.

    Attributes:
        q: ``(B, H, W, heads, D)``.
        k: of the same shape.
        v: ``(B, H, W, heads, Dv)``.
        key_weight: ``(N, taps, D)``, N = taps = kh * kw shift channels.
        key_bias: ``(heads or 1, N, D)``.
        value_weight: ``(N, taps, Dv)``.
        value_bias: ``(heads or 1, N, Dv)``.
        kernel_size: height and width (kh, kw) of the taps.
        scale: factor of the products.
        dropout_p: probability of dropping a weight.
        seed: of the dropout; None without.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    kernel_size: Sequence[int]
    scale: float
    dropout_p: float
    seed: Tensor | None = None


def probabilities_shape(q: Tensor, kernel_size: Sequence[int]) -> tuple[int, ...]:
    """``(B, heads, N, H, W)``: one number a query and shift channel."""
    return (q.shape[0], q.shape[3], kernel_size[0] * kernel_size[1], q.shape[1], q.shape[2])
