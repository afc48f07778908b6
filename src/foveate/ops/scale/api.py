"""The public function of scaling: checks what it is given, then chooses how to run."""

from __future__ import annotations

from torch import Tensor

from foveate.arguments import one_of
from foveate.ops._maps import check_map
from foveate.ops._operator import explainable
from foveate.ops.scale import operator
from foveate.ops.scale._arguments import Arguments

COMBINATIONS = ("product", "mean", "sign")


def scale(
    x: Tensor,
    first: Tensor,
    second: Tensor | None = None,
    third: Tensor | None = None,
    combination: str = "product",
) -> Tensor:
    """Multiply a map by a factor that is made of up to three, without storing that.

        product:  x * first * second * third
        mean:     x * (first + second + third) / how many there are
        sign:     x * (second if x < 0 else first)

    The gradient of zero is that of what is positive. Factors take the dtype of x.

    Args:
        x: ``(B, C, H, W)``, contiguous or channels last; another is copied first.
        first: a factor, broadcastable to x.
        second: another; for ``"sign"`` it must be there.
        third: a third; not for ``"sign"``.
        combination: how they become one.

    Returns:
        The product, of the shape and memory format of x.

    Raises:
        TypeError: if ``x`` or a factor is no tensor.
        ValueError: if x is no floating map, a factor does not broadcast to it or is on another
            device, or there are too few or too many.
    """
    return operator.scale(_checked(x, first, second, third, combination))[0]


def _checked(
    x: Tensor, first: Tensor, second: Tensor | None, third: Tensor | None, combination: str
) -> Arguments:
    """The arguments in the form that every body takes."""
    check_map(x)
    one_of(combination, COMBINATIONS, "combination")
    given = [f for f in (first, second, third) if f is not None]
    if first is None or (combination == "sign" and (second is None or third is not None)):
        raise ValueError(
            f"combination {combination!r} takes "
            f"{'first and second' if combination == 'sign' else 'first, and may take others'}, "
            f"got {len(given)} factors"
        )
    factors = [_factor(f, x) for f in given]
    return Arguments(x, *factors, *[None] * (3 - len(factors)), combination)


def _factor(factor: Tensor, x: Tensor) -> Tensor:
    if not isinstance(factor, Tensor):
        raise TypeError(f"a factor must be a torch.Tensor, got {type(factor).__name__}")
    if factor.dim() != 4 or any(
        n not in (1, m) for n, m in zip(factor.shape, x.shape, strict=True)
    ):
        raise ValueError(
            f"factors must be (B, C, H, W) = {tuple(x.shape)} or 1 along some of these, "
            f"got shape {tuple(factor.shape)}"
        )
    if factor.device != x.device:
        raise ValueError(f"a factor is on {factor.device}, x on {x.device}; move them together")
    factor = factor.to(x.dtype)
    return factor if factor.shape[0] == x.shape[0] else factor.expand(x.shape[0], -1, -1, -1)


explainable(operator.scale, scale, _checked)
