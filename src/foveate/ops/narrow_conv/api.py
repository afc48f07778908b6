"""The public function of the narrow convolution: checks what it is given, then runs it."""

from __future__ import annotations

from torch import Tensor

from foveate.ops._maps import autocast, check_map
from foveate.ops._operator import explainable
from foveate.ops.narrow_conv import operator
from foveate.ops.narrow_conv._arguments import Arguments


def narrow_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve a map of few channels into few, with stride one and zeros around it.

    What ``F.conv2d(x, weight, padding="same")`` gives, whose kernels leave most of a vector's lanes
    to channels that are not there. Under autocast both take its dtype.

    Args:
        x: ``(B, I, H, W)``.
        weight: ``(O, I, kh, kw)``, both sides odd.

    Returns:
        ``(B, O, H, W)``.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree.
    """
    return operator.narrow_conv(_checked(x, weight))[0]


def _checked(x: Tensor, weight: Tensor) -> Arguments:
    """The arguments in the form that every body takes."""
    check_map(x)
    check_map(weight, "weight")
    if weight.shape[1] != x.shape[1] or not (weight.shape[2] % 2 and weight.shape[3] % 2):
        raise ValueError(
            f"weight must be (O, {x.shape[1]}, kh, kw) with odd sides for x of shape "
            f"{tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device}, x on {x.device}; move them together")
    x, weight = autocast(x, weight)
    if weight.dtype != x.dtype:
        raise ValueError(f"x and weight must share one dtype, got {x.dtype} and {weight.dtype}")
    return Arguments(x, weight)


explainable(operator.narrow_conv, narrow_conv, _checked)
