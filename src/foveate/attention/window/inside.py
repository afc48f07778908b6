"""Attention inside the parts of a map, for the mechanisms that cut one: padding, mask, SDPA."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate import layout

Part = tuple[int | None, int | None]


def attend_inside(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: Part,
    *,
    spread: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attend inside every part of a map; where parts overhang it, what is beyond takes no part.

    Args:
        q: queries ``(B, H, W, h, D)``.
        k: keys, likewise.
        v: values, of any number of channels.
        part: height and width of a part; None stands for the map's own.
        spread: whether a part is spread evenly over the map (``layout.grid_partition``) and not
            a window of neighbours.
        bias: ``(h, T, T)``, added to the logits of the T cells of a part.
        scale: factor of the logits; ``D ** -0.5`` by default.
        dropout_p: probability of dropping a weight.

    Returns:
        ``(B, H, W, h, channels of v)``.
    """
    batch, height, width, heads, _ = q.shape
    cut, padded = cut_into((height, width), part)
    split = layout.grid_partition if spread else layout.window_partition
    merge = layout.grid_merge if spread else layout.window_merge

    def parts(x: Tensor) -> Tensor:
        x = split(layout.pad_to_size(layout.merge_heads(x), padded), cut)  # (B, n, T, h*D)
        return layout.split_heads(x.flatten(0, 1), heads).transpose(1, 2)  # (B*n, h, T, D)

    count = (padded[0] // cut[0]) * (padded[1] // cut[1])
    mask = None if bias is None else bias[None].to(q.dtype)  # (1, h, T, T)
    if not all(map(layout.is_known, padded)) or padded != (height, width):
        cells = layout.pad_to_size(q.new_ones(1, height, width, 1), padded)
        real = split(cells, cut)[0, :, :, 0] > 0  # (n, T)
        mask = _combine(mask, real.repeat(batch, 1)[:, None, None])  # (B*n, 1 or h, 1 or T, T)
    y = F.scaled_dot_product_attention(
        parts(q), parts(k), parts(v), attn_mask=mask, dropout_p=dropout_p, scale=scale
    )
    y = layout.merge_heads(y.transpose(1, 2)).unflatten(0, (-1, count))  # (B, n, T, h*D)
    y = layout.crop(merge(y, cut, padded), (height, width))
    return layout.split_heads(y, heads)


def cut_into(size: tuple[int, int], part: Part) -> tuple[tuple[int, int], tuple[int, int]]:
    """The parts' size, no larger than the map, and the size of the map that they fill."""
    cut, padded = [], []
    for length, wanted in zip(size, part, strict=True):
        if wanted is None or (layout.is_known(length) and wanted >= length):
            cut.append(length)
            padded.append(length)
        else:
            cut.append(wanted)
            padded.append(layout.ceil_to_multiple(length, wanted))
    return (cut[0], cut[1]), (padded[0], padded[1])


def pairs_inside(size: tuple[int, int], part: Part) -> int:
    """Pairs of query and key that :func:`attend_inside` computes, padding included."""
    (ph, pw), (height, width) = cut_into(size, part)
    return height * width * ph * pw


def one_hot_values(q: Tensor) -> Tensor:
    """Values ``(B, H, W, h, H*W)`` for queries ``q`` whose attention is its own weights."""
    positions = layout.one_hot_positions(q, q.shape[1], q.shape[2])
    return positions[:, :, :, None].expand(*q.shape[:-1], -1)


def dense(y: Tensor) -> Tensor:
    """``(B, H, W, h, H*W)``, attended :func:`one_hot_values`, as weights ``(B, h, H*W, H*W)``."""
    return y.flatten(1, 2).transpose(1, 2)


def apply_dense(weights: Tensor, v: Tensor) -> Tensor:
    """Weights ``(B, h, H*W, H*W)`` on values ``(B, H, W, h, D)``: ``(B, H, W, h*D)``."""
    y = weights @ v.flatten(1, 2).transpose(1, 2)  # (B, h, H*W, D)
    return layout.merge_heads(y.transpose(1, 2)).unflatten(1, tuple(v.shape[1:3]))


def _combine(bias: Tensor | None, seen: Tensor) -> Tensor:
    return seen if bias is None else bias.masked_fill(~seen, float("-inf"))
