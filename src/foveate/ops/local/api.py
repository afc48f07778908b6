"""The public function of local attention: checks what it is given, then chooses how to run."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import one_of, pair, probability
from foveate.ops._maps import autocast, check_maps, check_together
from foveate.ops._operator import explainable
from foveate.ops.local import operator
from foveate.ops.local._arguments import Arguments

BORDERS = ("shift", "zero", "mask", "reflect")
_FAR = 1024
"""Longer steps are cut to the map's size, from where on all are alike: kernels count in int32."""


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
    border: str = "shift",
    key_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend from every position of a map to a window of ``kernel_size`` around it.

    A window of size ``k`` and dilation ``d`` starts ``(k // 2) * d`` before its query: an odd one
    is centred, an even one reaches one step further back than ahead. In FLOPs
    (``torch.utils.flop_counter``) every query counts ``kh * kw`` keys, whatever the border.

    Args:
        q: queries ``(B, H, W, heads, D)``, with any strides; views of one projection cost nothing.
        k: keys, of the same shape.
        v: values ``(B, H, W, heads, Dv)``.
        kernel_size: window's height and width; one number for both.
        dilation: distance between the positions of a window.
        bias: added to the scaled products. ``(heads, 2*kh-1, 2*kw-1)`` is a table looked up by
            ``(key - query) / dilation + k - 1``; ``(B, H, W, heads, kh, kw)`` holds one number a
            query and tap (position of its window). In q's dtype or float32.
        scale: factor of the products; ``D ** -0.5`` by default.
        border: what a window does at the map's edge. ``"shift"``: it moves inward and keeps its
            size; dilated, it stays on the positions that agree with the query modulo ``d``, as in
            NAT and DiNAT. ``"zero"``: keys and values outside are zero vectors and take part.
            ``"mask"``: what is outside takes no part. ``"reflect"``: the map is mirrored at its
            edge, which is not repeated.
        key_mask: ``(B, H, W)`` bool, True where a key may be attended. A query left without any
            key gets 0. The zero vectors of ``border="zero"`` are never masked.
        dropout_p: probability of dropping an attention weight.
        return_lse: also return the logarithm of the sum of exponentials of each query's logits.

    Returns:
        The output ``(B, H, W, heads, Dv)``; with ``return_lse`` also ``(B, H, W, heads)`` in
        float32 (float64 for float64 inputs), ``-inf`` for a query left without any key.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree, or the map is too small for the window
            under this border.
    """
    checked = _checked(q, k, v, kernel_size, dilation, bias, scale, border, key_mask, dropout_p)
    out, lse = operator.local_attention(checked, return_kept=return_lse)
    return (out, lse) if return_lse else out


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int],
    bias: Tensor | None,
    scale: float | None,
    border: str,
    key_mask: Tensor | None,
    dropout_p: float,
) -> Arguments:
    """The arguments in the form that every body takes."""
    kernel = pair(kernel_size, "kernel_size")
    steps = pair(dilation, "dilation")
    one_of(border, BORDERS, "border")
    probability(dropout_p, "dropout_p")
    check_maps(q, k, v)
    q, k, v = autocast(q, k, v)
    check_together(q, k, v, bias=bias, key_mask=key_mask)
    _check_bias(bias, q, kernel)
    if key_mask is not None and key_mask.dtype is not torch.bool:
        raise ValueError(f"key_mask must be boolean (True: may be attended), got {key_mask.dtype}")
    if key_mask is not None and key_mask.shape != q.shape[:3]:
        raise ValueError(
            f"key_mask must have the map's shape (B, H, W) = {tuple(q.shape[:3])}, "
            f"got {tuple(key_mask.shape)}"
        )
    if not torch.compiler.is_exporting():
        _check_size(q, kernel, steps, border)
    if border in ("mask", "zero") and max(steps) > _FAR:
        steps = min(steps[0], max(q.shape[1], 1)), min(steps[1], max(q.shape[2], 1))
    factor = q.shape[4] ** -0.5 if scale is None else float(scale)
    return Arguments(q, k, v, kernel, steps, bias, factor, border, key_mask, float(dropout_p))


def _check_bias(bias: Tensor | None, q: Tensor, kernel: tuple[int, int]) -> None:
    if bias is None:
        return
    if bias.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"bias must be {q.dtype} like q, or float32, got {bias.dtype}")
    table = (q.shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1)
    each = (*q.shape[:4], *kernel)
    # Only shapes of one rank are compared: an export would tie the batch to the heads otherwise.
    if tuple(bias.shape) != (table if bias.dim() == len(table) else each):
        raise ValueError(
            f"bias must be a relative table (heads, 2*kh-1, 2*kw-1) = {table} or one number a "
            f"query and tap (B, H, W, heads, kh, kw) = {tuple(each)}, got {tuple(bias.shape)}"
        )


def _check_size(q: Tensor, kernel: tuple[int, int], steps: tuple[int, int], border: str) -> None:
    for name, length, size, step in zip(("H", "W"), q.shape[1:3], kernel, steps, strict=True):
        if border == "shift" and length < size * step:
            raise ValueError(
                f"a window of {size} with dilation {step} needs {name} >= {size * step} under "
                f'border="shift", got {name}={length}; pad the map, take a smaller kernel, '
                'or border="mask"'
            )
        if border == "reflect" and length <= size // 2 * step:
            raise ValueError(
                f'border="reflect" mirrors {size // 2 * step} positions and needs '
                f"{name} > {size // 2 * step}, got {name}={length}"
            )


explainable(operator.local_attention, local_attention, _checked)
