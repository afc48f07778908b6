"""The public function of local aggregation: checks what it is given, then chooses how to run."""

from __future__ import annotations

from torch import Tensor

from foveate.ops._maps import autocast
from foveate.ops._operator import explainable
from foveate.ops._taps import check_taps
from foveate.ops.aggregate import operator
from foveate.ops.aggregate._arguments import Arguments


def local_aggregate(
    values: Tensor,
    weights: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    *,
    border: str = "zero",
    normalize: bool = False,
) -> Tensor:
    """Sum every position's neighbours with weights of its own: a convolution without fixed weights.

        out[p, s, g] = sum over taps t of weights[p, t, g] * values[p + t, s, g]

    The channels are S times G; a weight serves the S channels of its group. Involution, vector
    attention and the second half of local attention are of this kind. Nothing is unfolded. Under
    autocast both tensors take its dtype.

    Args:
        values: ``(B, H, W, S, G)``, with any strides; read in place by the compiled kernel if it is
            float32 and its channels lie side by side.
        weights: ``(B, H, W, taps, G)``, taps counted row by row; fastest where the groups lie side
            by side.
        kernel_size: height and width of the taps; one number for both. An odd one is centred, an
            even one reaches one step further back than ahead.
        dilation: distance of the taps.
        border: what taps read beyond the map: "zero", or "reflect" for the map turned round at its
            last position (its nearest position where it is too small for that).
        normalize: whether the weights are logits, of which a softmax over the taps is taken; taps
            beyond a border of zeros take part.

    Returns:
        The output ``(B, H, W, S, G)``.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree.
    """
    checked = _checked(values, weights, kernel_size, dilation, border, normalize)
    return operator.local_aggregate(checked)[0]


def _checked(
    values: Tensor,
    weights: Tensor,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int],
    border: str,
    normalize: bool,
) -> Arguments:
    """The arguments in the form that every body takes."""
    kernel, steps, border = check_taps(kernel_size, dilation, border)
    for name, x in (("values", values), ("weights", weights)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must have a floating dtype, got {x.dtype}")
    if values.dim() != 5 or 0 in values.shape[1:]:
        raise ValueError(
            f"values must be (B, H, W, S, G) with at least one of each but images, got shape "
            f"{tuple(values.shape)}"
        )
    expected = (*values.shape[:3], kernel[0] * kernel[1], values.shape[4])
    if tuple(weights.shape) != expected:
        raise ValueError(
            f"weights must be (B, H, W, taps, G) = {expected} for values of shape "
            f"{tuple(values.shape)} and a kernel of {kernel[0]}x{kernel[1]}, got "
            f"{tuple(weights.shape)}"
        )
    values, weights = autocast(values, weights)
    if values.dtype != weights.dtype:
        raise ValueError(
            f"values and weights must share one dtype, got {values.dtype} and {weights.dtype}"
        )
    if values.device != weights.device:
        raise ValueError(
            f"weights are on {weights.device}, values on {values.device}; move them together"
        )
    return Arguments(values, weights, kernel, steps, border, bool(normalize))


explainable(operator.local_aggregate, local_aggregate, _checked)
