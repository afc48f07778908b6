"""Slide attention in the form that is exported: products and sums of moved maps, no einsum.

Equals ``reference.py``. A tap's share of every logit is one dense product ``(q * k moved) @ w``
and its share of the output ``(a @ w) * v moved``, as in ``portable.py``. Runtimes copy what they
move, so as little as possible is moved here:

* Across, keys and values are moved once a column of taps.
* Down, what is smaller: queries are moved to the rows of the keys, and the sum over a row of taps
  back; weights to the rows of the values, and the sum back.
* Biases of each head are one product for all heads, with a matrix of their blocks. Batched by head
  it would be an ``Einsum`` or transposes, which cost runtimes more than products with zeros.

Legend: B batch, H x W map, h heads, D channels of a head, n shift channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops.slide._arguments import Arguments


def slide_attention(a: Arguments) -> Tensor:
    """Output ``(B, H, W, h, Dv)`` of checked arguments, without dropout."""
    key_weight, key_bias = a.key_weight.to(a.q.dtype), a.key_bias.to(a.q.dtype)
    value_weight, value_bias = a.value_weight.to(a.v.dtype), a.value_bias.to(a.v.dtype)
    q = a.q * a.scale

    def of_keys(query: Tensor, key: Tensor, tap: int) -> Tensor:
        return _precise((query * key) @ key_weight[:, tap].mT)

    def of_values(weights: Tensor, value: Tensor, tap: int) -> Tensor:
        return (weights @ value_weight[:, tap]) * value

    logits = _precise(_by_head(q, key_bias.mT))  # (B, H, W, h, n)
    logits = logits + _over_taps(q, a.k, a.kernel_size, of_keys)
    weights = logits.softmax(-1).to(a.v.dtype)
    return _by_head(weights, value_bias) + _over_taps(weights, a.v, a.kernel_size, of_values)


def _over_taps(
    here: Tensor,
    there: Tensor,
    kernel: tuple[int, int],
    share: Callable[[Tensor, Tensor, int], Tensor],
) -> Tensor:
    """Sum over the taps of ``share(here, there at the tap's position, tap)``, a map.

    Beyond the map ``there`` is zero, and so must be the share of what is zero.
    """
    (rows, columns), shares = kernel, []
    across = _moved(there, 2, [columns // 2 - i for i in range(columns)])
    down = [i - rows // 2 for i in range(rows)]
    for row, (beside, steps) in enumerate(zip(_moved(here, 1, down), down, strict=True)):
        first = row * columns
        parts = [share(beside, near, first + i) for i, near in enumerate(across)]
        shares += _moved(_sum(parts), 1, [-steps])
    return _sum(shares)


def _moved(x: Tensor, axis: int, distances: list[int]) -> list[Tensor]:
    """``x (B, H, W, h, I)`` moved along an axis; zeros come in, what leaves is lost."""
    if not any(distances):
        return [x for _ in distances]
    before, after = max(0, *distances), max(0, *(-each for each in distances))
    edge = (0, 0) * (3 - axis) + (before, after)
    padded = F.pad(x.flatten(3), edge)  # fewer axes are padded faster

    def moved(steps: int) -> Tensor:
        return padded.narrow(axis, before - steps, x.shape[axis]).unflatten(-1, x.shape[3:])

    return [moved(steps) if steps else x for steps in distances]


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _by_head(x: Tensor, matrix: Tensor) -> Tensor:
    """``x (B, H, W, h, I)`` times each head's ``(h or 1, I, O)``."""
    heads, inputs, outputs = matrix.shape
    if heads == 1:
        return x @ matrix[0]
    own = torch.eye(heads, dtype=x.dtype, device=x.device)
    blocks = (matrix[:, :, None] * own[:, None, :, None]).reshape(heads * inputs, heads * outputs)
    x = x.clone(memory_format=torch.contiguous_format).flatten(-2)
    return (x @ blocks).unflatten(-1, (heads, outputs))


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()
