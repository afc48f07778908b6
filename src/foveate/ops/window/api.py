"""The public function of window attention: checks what it is given, then chooses how to run."""

from __future__ import annotations

from torch import Tensor

from foveate.arguments import pair, probability
from foveate.layout import is_known
from foveate.ops._maps import autocast, check_maps, check_together
from foveate.ops._operator import explainable
from foveate.ops.window import operator
from foveate.ops.window._arguments import Arguments
from foveate.ops.window.windows import WindowSize, fitted


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | WindowSize,
    shift_size: int | tuple[int, int] = 0,
    *,
    spread: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend from every position of a map to the positions of its own window.

    The map is cut into windows of ``wh * ww`` neighbours; with None for a side they are stripes as
    long as the map. A shift moves the windows down and right; the cells that this brings together
    from two ends of the map do not attend to each other. Windows that overhang the map hold fewer
    cells. They are read in place: nothing is cut out, padded or rolled in memory by the compiled
    kernel.

    Args:
        q: queries ``(B, H, W, heads, D)``, with any strides; views of one projection cost nothing.
        k: keys, of the same shape.
        v: values ``(B, H, W, heads, Dv)``.
        window_size: rows and columns of a window; one number for both, None for the map's own.
        shift_size: how far the windows are moved; one number for both.
        spread: cut the map into windows whose cells are spread evenly over it instead: window
            (i, j) has rows i, i + H / wh, ...
        bias: ``(heads, wh*ww, wh*ww)``, added to the scaled products of a window's queries and
            keys, both counted row by row; of the window's size on this map, no larger than it.
        scale: factor of the products; ``D ** -0.5`` by default.
        dropout_p: probability of dropping an attention weight.

    Returns:
        The output ``(B, H, W, heads, Dv)``.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree, or the shift is no smaller than a window.
    """
    checked = _checked(q, k, v, window_size, shift_size, spread, bias, scale, dropout_p)
    return operator.window_attention(checked)[0]


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | WindowSize,
    shift_size: int | tuple[int, int],
    spread: bool,
    bias: Tensor | None,
    scale: float | None,
    dropout_p: float,
) -> Arguments:
    """The arguments in the form that every body takes."""
    probability(dropout_p, "dropout_p")
    check_maps(q, k, v)
    q, k, v = autocast(q, k, v)
    check_together(q, k, v, bias=bias)
    window = fitted((q.shape[1], q.shape[2]), _sides(window_size))
    shift = _moves(shift_size)
    known = all(map(is_known, shift))
    if spread and known and shift != (0, 0):
        raise ValueError("spread windows cannot be shifted; shift_size must be 0")
    if known and any(move and move >= side for move, side in zip(shift, window, strict=True)):
        raise ValueError(f"shift_size must be less than a window's {window}, got {shift_size}")
    _check_bias(bias, q, window)
    factor = q.shape[4] ** -0.5 if scale is None else float(scale)
    return Arguments(q, k, v, window, shift, spread, bias, factor, float(dropout_p))


def _sides(window_size: int | WindowSize) -> WindowSize:
    """Rows and columns of a window."""
    both = (window_size, window_size) if isinstance(window_size, int) else tuple(window_size)
    pair([1 if side is None or not is_known(side) else side for side in both], "window_size")
    return both[0], both[1]


def _moves(shift_size: int | tuple[int, int]) -> tuple[int, int]:
    """Down and right; a caller that lets symbolic sizes decide has symbols."""
    if isinstance(shift_size, tuple) and not all(map(is_known, shift_size)):
        return shift_size
    return pair(shift_size, "shift_size", at_least=0)


def _check_bias(bias: Tensor | None, q: Tensor, window: tuple[int, int]) -> None:
    if bias is None:
        return
    cells, heads = window[0] * window[1], q.shape[3]
    if tuple(bias.shape) != (heads, cells, cells):
        raise ValueError(
            f"bias must be (heads, cells, cells) = ({heads}, {cells}, {cells}) for windows of "
            f"{window[0]}x{window[1]}, got {tuple(bias.shape)}"
        )
    if not bias.is_floating_point():
        raise ValueError(f"bias must have a floating dtype, got {bias.dtype}")


explainable(operator.window_attention, window_attention, _checked)
