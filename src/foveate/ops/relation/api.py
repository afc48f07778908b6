"""The public function of local relations: checks what it is given, then chooses how to run."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import one_of
from foveate.ops._operator import explainable
from foveate.ops._taps import check_taps
from foveate.ops.relation import operator
from foveate.ops.relation._arguments import Arguments

RELATIONS = ("difference", "concatenation")


def local_relation(
    q: Tensor,
    k: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    *,
    relation: str = "difference",
    border: str = "zero",
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Relate every position's query to the keys around it, for a network that makes weights of it.

        difference      out[p, t] = q[p] - k[p + t]                        (B, H, W, taps, C)
        concatenation   out[p] = [q[p], k[p + t] channel by channel]       (B, H, W, C * (1 + taps))

    These are the relations of pairwise and patchwise self-attention (SAN);
    :func:`local_aggregate` sums with the weights. In a concatenation key channel c of tap t is
    number ``C + c * taps + t``. With a scale and a shift, such as a norm has, the result is
    ``relu(scale * out + shift)``: the first layers of that network, computed on the way.

    Args:
        q: queries ``(B, H, W, C)``, with any strides; read in place by the compiled kernel if it is
            float32 and its channels lie side by side.
        k: keys, of the same shape.
        kernel_size: height and width of the taps; one number for both. An odd one is centred, an
            even one reaches one step further back than ahead.
        dilation: distance of the taps.
        relation: "difference" or "concatenation".
        border: what taps read beyond the map: "zero", or "reflect" for the map turned round at its
            last position (its nearest position where it is too small for that).
        scale: what the channels are multiplied by: ``(C,)`` for a difference,
            ``(C * (1 + taps),)`` for a concatenation; with a shift or not at all.
        shift: what is then added, of the same size.

    Returns:
        The relation, contiguous, of the dtype of q.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree.
    """
    checked = _checked(q, k, kernel_size, dilation, relation, border, scale, shift)
    return operator.local_relation(checked)[0]


def _checked(
    q: Tensor,
    k: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int],
    relation: str,
    border: str,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Arguments:
    """The arguments in the form that every body takes."""
    kernel, steps, border = check_taps(kernel_size, dilation, border)
    one_of(relation, RELATIONS, "relation")
    for name, x in (("q", q), ("k", k)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must have a floating dtype, got {x.dtype}")
    if q.dim() != 4 or 0 in q.shape[1:]:
        raise ValueError(
            f"q must be (B, H, W, C) with at least one of each but images, got shape "
            f"{tuple(q.shape)}"
        )
    if q.shape != k.shape:
        raise ValueError(
            f"q and k must have the same shape (B, H, W, C), got {tuple(q.shape)} and "
            f"{tuple(k.shape)}"
        )
    if q.dtype != k.dtype:
        raise ValueError(f"q and k must share one dtype, got {q.dtype} and {k.dtype}")
    if q.device != k.device:
        raise ValueError(f"k is on {k.device}, q on {q.device}; move them together")
    if (scale is None) != (shift is None):
        raise ValueError("scale and shift are given together or not at all")
    taps = kernel[0] * kernel[1]
    count = q.shape[3] if relation == "difference" else q.shape[3] * (1 + taps)
    for name, x in (("scale", scale), ("shift", shift)):
        if x is not None:
            _check_affine(name, x, count, q)
    return Arguments(q, k, kernel, steps, border, relation, scale, shift)


def _check_affine(name: str, x: Tensor, count: int, q: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if tuple(x.shape) != (count,):
        raise ValueError(f"{name} must be ({count},), got {tuple(x.shape)}")
    if x.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"{name} must be {q.dtype} like q, or float32, got {x.dtype}")
    if x.device != q.device:
        raise ValueError(f"{name} is on {x.device}, q on {q.device}; move them together")


explainable(operator.local_relation, local_relation, _checked)
