"""The public function of window attention: checks what it is given, then chooses how to run."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import pair, probability
from foveate.layout import is_known
from foveate.ops._backends import explainable, in_transform, in_transform_obstacles, transformed
from foveate.ops._dropout import draw_seed
from foveate.ops._maps import autocast, check_maps, check_together
from foveate.ops.window import operator, portable
from foveate.ops.window.parts import Part, cut


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | Part,
    shift_size: int | tuple[int, int] = 0,
    *,
    spread: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend from every position to the positions of its own part of the map.

    A part is a window of ``wh * ww`` neighbours; with None for a side it is a stripe as long as
    the map. A shift moves the windows down and right; the cells that this brings together from two
    ends of the map do not see each other. Parts that overhang the map hold fewer cells. The
    windows are read in place: nothing is cut out, padded or rolled in memory by the compiled
    kernel.

    Args:
        q: queries ``(B, H, W, heads, D)``, with any strides; views of one projection cost nothing.
        k: keys, of the same shape.
        v: values ``(B, H, W, heads, Dv)``.
        window_size: rows and columns of a part; one number for both, None for the map's own.
        shift_size: how far the windows are moved; one number for both.
        spread: cut the map into parts whose cells are spread evenly over it instead: part (i, j)
            has rows i, i + H / wh, ...
        bias: ``(heads, wh*ww, wh*ww)``, added to the scaled products of a part's queries and keys,
            both counted row by row; of the part's size on this map, no larger than the map.
        scale: factor of the products; ``D ** -0.5`` by default.
        dropout_p: probability of dropping an attention weight.

    Returns:
        The output ``(B, H, W, heads, Dv)``.

    Raises:
        TypeError: if an argument is no tensor.
        ValueError: if shapes, dtypes or devices disagree, or the shift is no smaller than a part.
    """
    arguments = _checked(
        q, k, v, window_size, shift_size,
        spread=spread, bias=bias, scale=scale, dropout_p=dropout_p,
    )  # fmt: skip
    seed = draw_seed() if dropout_p else None
    if transformed("window_attention"):
        return operator.any_derivative(*arguments, seed)
    if torch.compiler.is_exporting() or arguments[0].device.type != "cpu":
        return portable.window_attention(*arguments, seed)
    return operator.window_attention(*arguments, seed)


@explainable("window_attention")
def _obstacles(*args: object, **kwargs: object) -> dict[str, str]:
    arguments = _checked(*args, **kwargs)
    return in_transform_obstacles() if in_transform() else operator.why_not(*arguments)


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | Part,
    shift_size: int | tuple[int, int] = 0,
    *,
    spread: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple:
    """The arguments in the form that every body takes."""
    probability(dropout_p, "dropout_p")
    check_maps(q, k, v)
    q, k, v = (autocast(x) for x in (q, k, v))
    check_together(q, k, v, bias=bias)
    part = cut((q.shape[1], q.shape[2]), _part(window_size))
    shift = pair(shift_size, "shift_size", at_least=0)
    if spread and shift != (0, 0):
        raise ValueError("spread parts cannot be shifted; shift_size must be 0")
    if any(move and move >= side for move, side in zip(shift, part, strict=True)):
        raise ValueError(f"shift_size must be less than a part's {part}, got {shift_size}")
    _check_bias(bias, q, part)
    factor = q.shape[4] ** -0.5 if scale is None else float(scale)
    return q, k, v, part, shift, spread, bias, factor, float(dropout_p)


def _part(window_size: int | Part) -> Part:
    """Rows and columns of a part; None stands for the map's own."""
    both = (window_size, window_size) if isinstance(window_size, int) else tuple(window_size)
    pair([1 if side is None or not is_known(side) else side for side in both], "window_size")
    return both[0], both[1]


def _check_bias(bias: Tensor | None, q: Tensor, part: tuple[int, int]) -> None:
    if bias is None:
        return
    cells, heads = part[0] * part[1], q.shape[3]
    if tuple(bias.shape) != (heads, cells, cells):
        raise ValueError(
            f"bias must be (heads, cells, cells) = ({heads}, {cells}, {cells}) for parts of "
            f"{part[0]}x{part[1]}, got {tuple(bias.shape)}"
        )
    if not bias.is_floating_point():
        raise ValueError(f"bias must have a floating dtype, got {bias.dtype}")
