"""The public function of slide attention: checks what it is given, then chooses how to run."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import pair, probability
from foveate.ops._maps import autocast, check_maps, check_together
from foveate.ops._operator import explainable
from foveate.ops.slide import operator
from foveate.ops.slide._arguments import Arguments


def slide_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: int | tuple[int, int],
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend from every position to ``N = kh * kw`` shift channels: depthwise convolved maps.

    With taps ``j`` of a window around the query's position ``p``, shift channel ``n`` has

        key[n, d]   = sum over j of key_weight[n, j, d] * k[p + j, d] + key_bias[head, n, d]
        value[n, d] = sum over j of value_weight[n, j, d] * v[p + j, d] + value_bias[head, n, d]

    where k and v are zero outside the map. The softmax runs over the shift channels. A weight that
    is one at tap n and zero elsewhere, with no bias, gives attention to a plain window. Under
    autocast q, k and v take its dtype; weights and biases stay as they are.

    Args:
        q: queries ``(B, H, W, heads, D)``, with any strides; views of one projection cost nothing.
        k: keys, of the same shape.
        v: values ``(B, H, W, heads, Dv)``.
        key_weight: ``(N, taps, D)``, both counted row by row: ``N = taps = kh * kw``.
        key_bias: ``(heads, N, D)``, or ``(1, N, D)`` for all heads.
        value_weight: ``(N, taps, Dv)``.
        value_bias: ``(heads, N, Dv)`` or ``(1, N, Dv)``.
        kernel_size: height and width of the taps; one number for both. An odd one is centred, an
            even one reaches one step further back than ahead.
        scale: factor of the products; ``D ** -0.5`` by default.
        dropout_p: probability of dropping an attention weight.

    Returns:
        The output ``(B, H, W, heads, Dv)``.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree.
    """
    checked = _checked(
        q, k, v, key_weight, key_bias, value_weight, value_bias, kernel_size, scale, dropout_p
    )
    return operator.slide_attention(checked)[0]


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    kernel_size: int | tuple[int, int],
    scale: float | None,
    dropout_p: float,
) -> Arguments:
    """The arguments in the form that every body takes."""
    kernel = pair(kernel_size, "kernel_size")
    probability(dropout_p, "dropout_p")
    check_maps(q, k, v)
    q, k, v = autocast(q, k, v)
    check_together(q, k, v)
    _check_weight("key", key_weight, key_bias, q, q.shape[4], kernel)
    _check_weight("value", value_weight, value_bias, q, v.shape[4], kernel)
    factor = q.shape[4] ** -0.5 if scale is None else float(scale)
    weights = (key_weight, key_bias, value_weight, value_bias)
    return Arguments(q, k, v, *weights, kernel, factor, float(dropout_p))


def _check_weight(
    name: str, weight: Tensor, bias: Tensor, q: Tensor, dim: int, kernel: tuple[int, int]
) -> None:
    taps, heads = kernel[0] * kernel[1], q.shape[3]
    for kind, x in (("weight", weight), ("bias", bias)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}_{kind} must be a torch.Tensor, got {type(x).__name__}")
        if x.dtype not in (q.dtype, torch.float32):
            raise ValueError(
                f"{name}_{kind} must be {q.dtype} like q, or float32, got {x.dtype}"
            )  # fmt: skip
        if x.device != q.device:
            raise ValueError(
                f"{name}_{kind} is on {x.device}, q on {q.device}; move them together"
            )  # fmt: skip
    if tuple(weight.shape) != (taps, taps, dim):
        raise ValueError(
            f"{name}_weight must be (N, taps, D) = {(taps, taps, dim)} for a kernel of "
            f"{kernel[0]}x{kernel[1]}, got {tuple(weight.shape)}"
        )
    if tuple(bias.shape) not in ((heads, taps, dim), (1, taps, dim)):
        raise ValueError(
            f"{name}_bias must be (heads or 1, N, D) = {(heads, taps, dim)} or "
            f"{(1, taps, dim)}, got {tuple(bias.shape)}"
        )


explainable(operator.slide_attention, slide_attention, _checked)
