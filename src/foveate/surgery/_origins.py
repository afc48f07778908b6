"""Where each element of a tensor comes from: carried beside the features through a forward pass.

Every activation has three companions of its own shape, real numbers even when it is fake itself:

    row, column   the place in the image that an element stands for, in pixels; where layers mix
                  places (a strided convolution, pooling, the merging of patches), their mean.
                  The sample's number times ``SAMPLE`` is added to the row.
    channel       which output of which linear layer an element is: ``layer * LAYER + channel``

Operators that only move data (reshape, permute, roll, pad, slice, concatenate) are applied to the
companions as they are, so that cut windows, shifts and any order of tokens are read off exactly.
Axes along which a companion does not vary have stride 0 and cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def words(names: str) -> frozenset[str]:
    """The names of several operators."""
    return frozenset(names.split())


SAMPLE = 2.0**20
LAYER = 2.0**20
ABSENT = -1.0  # not from the image: class tokens, tables
PADDING = -2.0
_SAME = 0.01  # pixels: means of the same places by different sums

MOVES = words(
    "view reshape flatten unflatten permute transpose movedim moveaxis swapaxes swapdims "
    "contiguous unsqueeze squeeze roll flip __getitem__ narrow split split_with_sizes "
    "tensor_split chunk unbind cat concat concatenate stack expand expand_as repeat "
    "repeat_interleave tile select index_select pad unfold clone t adjoint T mT H mH "
    "pixel_shuffle pixel_unshuffle view_as reshape_as detach"
)
JOININGS = words("cat concat concatenate stack")
RESHAPES = words("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as")
LINEAR = frozenset({"linear"})
CONVOLUTIONS = words("conv1d conv2d conv3d conv_transpose2d")
RESAMPLINGS = words(
    "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate lp_pool2d "
    "max_pool2d_with_indices boolean_dispatch fn"
)
REDUCTIONS = words("mean sum amax amin norm vector_norm std var logsumexp max min prod nanmean")
MATRIX_PRODUCTS = words("matmul __matmul__ bmm")


@dataclass(frozen=True)
class Origin:
    """The companions of one tensor."""

    row: Tensor
    column: Tensor
    channel: Tensor

    def each(self, function: Callable[[Tensor], Tensor]) -> Origin:
        return Origin(function(self.row), function(self.column), function(self.channel))

    @property
    def shape(self) -> torch.Size:
        return self.row.shape


def of_image(shape: Sequence[int]) -> Origin:
    """The origin of images ``(B, C, H, W)`` themselves."""
    batch, _, height, width = shape
    rows = torch.arange(batch).double()[:, None] * SAMPLE + torch.arange(height).double()
    row = rows[:, None, :, None].expand(shape)
    column = torch.arange(width).double().expand(shape)
    return Origin(row, column, _nowhere(shape))


def _nowhere(shape: Sequence[int], value: float = ABSENT) -> Tensor:
    return torch.full((), value, dtype=torch.float64).expand(tuple(shape))


def absent(shape: Sequence[int]) -> Origin:
    """The origin of what does not come from the image."""
    return Origin(_nowhere(shape), _nowhere(shape), _nowhere(shape))


def of_layer(origin: Origin, layer: int, axis: int) -> Origin:
    """``origin`` with the channels numbered along ``axis`` as outputs of ``layer``."""
    shape = origin.shape
    numbers = torch.arange(shape[axis]).double() + layer * LAYER
    view = [1] * len(shape)
    view[axis] = -1
    return Origin(origin.row, origin.column, numbers.view(view).expand(shape))


def after(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any],
    find: Callable[[Tensor], Origin | None], outputs: Sequence[Tensor],
) -> list[Origin | None]:  # fmt: skip
    """The origins of what ``function(*args, **kwargs)`` gave, None where they cannot be told.

    Args:
        name: the operator's name.
        function: the operator itself.
        args: its arguments.
        kwargs: its named arguments.
        find: the origin of a tensor among them.
        outputs: the tensors that it gave.
    """
    try:
        if name in RESHAPES:
            return [_reshaped(_first(args, kwargs, find), outputs[0].shape)]
        if name in MOVES:
            return _moved(name, function, args, kwargs, find, outputs)
        result = _computed(name, args, kwargs, find, outputs[0])
    except Exception:
        # Whatever an unusual call does to companions, the model's own forward is not concerned;
        # places whose origin is unknown say so.
        return [None] * len(outputs)
    return [result, *[None] * (len(outputs) - 1)]


def _first(
    args: Sequence[Any], kwargs: dict[str, Any], find: Callable[[Tensor], Origin | None]
) -> Origin:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and (origin := find(value)) is not None:
            return origin
    raise LookupError("no operand has an origin")


def _moved(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any],
    find: Callable[[Tensor], Origin | None], outputs: Sequence[Tensor],
) -> list[Origin | None]:  # fmt: skip
    operands = [find(t) for t in tensors_in((args, kwargs))]
    if all(origin is None for origin in operands):
        return [None] * len(outputs)

    def companions(which: str) -> list[Tensor]:
        def swap(value: Any) -> Any:
            if isinstance(value, Tensor):
                origin = find(value)
                if origin is not None:
                    return getattr(origin, which)
                if name == "__getitem__" and value is not args[0]:
                    return value  # an index
                return _nowhere(value.shape)
            if isinstance(value, tuple | list):
                return type(value)(map(swap, value)) if not hasattr(value, "_fields") else value
            return value

        given, named = swap(tuple(args)), {key: swap(value) for key, value in kwargs.items()}
        if name == "pad":
            return [_padded(given[0], given[1] if len(given) > 1 else named["pad"])]
        if name in JOININGS:
            dim = given[1] if len(given) > 1 else named.get("dim", named.get("axis", 0))
            parts = given[0] if given else named["tensors"]
            return [_joined([p.unsqueeze(dim) for p in parts] if name == "stack" else parts, dim)]
        if name == "unfold":  # which pads with zeros
            moved = function(given[0] - PADDING, *given[1:], **named) + PADDING
            return [compressed(moved)]
        found = tensors_in(function(*given, **named))
        return [t if name in ("permute", "transpose") else compressed(t) for t in found]

    rows, columns, channels = companions("row"), companions("column"), companions("channel")
    return [Origin(*parts) for parts in zip(rows, columns, channels, strict=True)]


def _padded(c: Tensor, pads: Sequence[int]) -> Tensor:
    """``c`` padded, without writing out the axes that are not and along which it does not vary."""
    leading = c.dim() - len(pads) // 2
    small = c[tuple(slice(0, 1) if c.stride(i) == 0 else slice(None) for i in range(leading))]
    padded = compressed(F.pad(small, tuple(pads), value=PADDING))
    return padded.expand(*c.shape[:leading], *padded.shape[leading:])


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """``torch.cat(parts, dim)``, without writing out the axes along which no part varies."""
    rank = parts[0].dim()
    kept = {dim % rank} | {i for part in parts for i in range(rank) if part.stride(i) != 0}
    small = [p[tuple(slice(None if i in kept else 1) for i in range(rank))] for p in parts]
    joined = compressed(torch.cat(small, dim))
    shape = [joined.shape[i] if i in kept else parts[0].shape[i] for i in range(rank)]
    return joined.expand(shape)


def _computed(
    name: str, args: Sequence[Any], kwargs: dict[str, Any],
    find: Callable[[Tensor], Origin | None], output: Tensor,
) -> Origin | None:  # fmt: skip
    shape = output.shape
    if name in LINEAR:
        return _first(args, kwargs, find).each(lambda c: _mean(c, -1).expand(shape))
    if name in CONVOLUTIONS:
        return _first(args, kwargs, find).each(
            lambda c: _resampled(_mean(c, 1), shape[2:]).expand(shape)
        )
    if name in RESAMPLINGS:
        return _first(args, kwargs, find).each(lambda c: _resampled(c, shape[2:]).expand(shape))
    if name in REDUCTIONS:
        origin = _first(args, kwargs, find)
        if tuple(origin.shape) == tuple(shape):
            return origin
        return _reduced(origin, args, kwargs, shape)
    if name in MATRIX_PRODUCTS:
        return _product(find(args[0]), find(args[1]), shape)
    if name == "scaled_dot_product_attention":
        query, value = find(args[0]), find(args[2]) if len(args) > 2 else find(kwargs["value"])
        if query is None:
            return None
        places = query.each(lambda c: _mean(c, -1).expand(shape))
        channel = places.channel if value is None else _mean(value.channel, -2).expand(shape)
        return Origin(places.row, places.column, channel)
    if name == "multi_head_attention_forward":
        return _first(args, kwargs, find)
    return _elementwise(args, kwargs, find, shape)


def _elementwise(
    args: Sequence[Any], kwargs: dict[str, Any], find: Callable[[Tensor], Origin | None],
    shape: torch.Size,
) -> Origin | None:  # fmt: skip
    found = [find(t) for t in tensors_in((args, kwargs))]
    known = [origin for origin in found if origin is not None]
    known.sort(key=lambda origin: tuple(origin.shape) != tuple(shape))
    for origin in known:
        fits = len(origin.shape) <= len(shape) and all(
            own in (1, there) for own, there in zip(origin.shape[::-1], shape[::-1], strict=False)
        )
        if fits:
            return origin.each(lambda c: c.expand(shape))
    return None


def _product(left: Origin | None, right: Origin | None, shape: torch.Size) -> Origin | None:
    """``left @ right``: rows are the left's, unless the right's columns lie in the image."""
    if left is None or right is None:
        return None
    by_row = left.each(lambda c: _mean(c, -1).expand(shape))
    by_column = right.each(lambda c: _mean(c, -2).expand(shape))
    stays = by_row.row.stride(-2) == 0 and by_row.column.stride(-2) == 0
    varies = by_column.row.stride(-1) != 0 or by_column.column.stride(-1) != 0
    places = by_column if stays and varies else by_row
    return Origin(places.row, places.column, by_column.channel)


def _reduced(
    origin: Origin, args: Sequence[Any], kwargs: dict[str, Any], shape: torch.Size
) -> Origin | None:
    axes = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    if axes is None or isinstance(axes, Tensor):
        return None
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    rank = len(origin.shape)

    def reduce(c: Tensor) -> Tensor:
        for axis in axes:
            c = _mean(c, axis)
        kept = [i for i in range(rank) if i not in {axis % rank for axis in axes}]
        if len(shape) == rank:
            return c.expand(shape)
        return c[tuple(slice(None) if i in kept else 0 for i in range(rank))].expand(shape)

    return origin.each(reduce)


def _mean(c: Tensor, axis: int) -> Tensor:
    """The mean along ``axis``, which stays with size 1, of what has an origin."""
    if c.shape[axis] == 1 or c.stride(axis) == 0:
        return c.narrow(axis, 0, 1)
    small = _small(c)
    there = small >= 0
    total = torch.where(there, small, 0.0).sum(axis, keepdim=True)
    mean = _rounded(total / there.sum(axis, keepdim=True).clamp(min=1))
    mean = torch.where(there.any(axis, keepdim=True), mean, small.amax(axis, keepdim=True))
    target = list(c.shape)
    target[axis] = 1
    return compressed(mean.expand(target))


def _resampled(c: Tensor, size: Sequence[int]) -> Tensor:
    """``c`` (B, C, H, W) on a grid of ``size``: means when it is coarser, between when finer."""
    if tuple(c.shape[2:]) == tuple(size) or len(size) != 2:
        if len(size) == 2:
            return c
        raise ValueError("not a map")
    small = _small(c.narrow(1, 0, 1)) if c.stride(1) == 0 else _small(c)
    if all(now >= before for now, before in zip(size, c.shape[2:], strict=True)):
        return compressed(_between(_between(small, 2, size[0]), 3, size[1]).expand(
            c.shape[0], c.shape[1], *size))  # fmt: skip
    whole = small.expand(-1, -1, *c.shape[2:])
    there = (whole >= 0).double()
    share = F.interpolate(there, tuple(size), mode="area")
    total = F.interpolate(whole * there, tuple(size), mode="area")
    grid = torch.where(share > 0, _rounded(total / share.clamp(min=1e-9)), PADDING)
    return compressed(grid.expand(c.shape[0], c.shape[1] if c.stride(1) else grid.shape[1], *size))


def _between(c: Tensor, axis: int, size: int) -> Tensor:
    """``c`` on a finer grid along ``axis``, in a line with the neighbours, at the borders too."""
    before = c.shape[axis]
    if before == 1:
        return c
    at = (torch.arange(size).double() + 0.5) * (before / size) - 0.5
    low = at.floor().clamp(0, before - 2).long()
    share = (at - low).view([-1 if i == axis else 1 for i in range(c.dim())])
    below, above = c.index_select(axis, low), c.index_select(axis, low + 1)
    line = below + share * (above - below)
    nearest = torch.where(share < 0.5, below, above)
    return torch.where((below >= 0) & (above >= 0), line.clamp(min=0), nearest)


def _rounded(c: Tensor) -> Tensor:
    """Without the last bits, so that equal means of different sums are equal."""
    return c.mul(1024).round() / 1024


def _small(c: Tensor) -> Tensor:
    """``c`` with one element along the axes where it does not vary."""
    return c[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in c.stride())]


def compressed(c: Tensor) -> Tensor:
    """``c`` with stride 0 along the axes where it does not vary."""
    shape = c.shape
    c = _small(c)
    for axis in range(c.dim()):
        if c.shape[axis] < 2:
            continue
        first = c.narrow(axis, 0, 1)
        last = c.narrow(axis, c.shape[axis] - 1, 1)
        if all(bool(((other - first).abs() < _SAME).all()) for other in (last, c)):
            c = first
    return c.expand(shape)


def _reshaped(origin: Origin, shape: Sequence[int]) -> Origin:
    return origin.each(lambda c: _reshape(c, tuple(shape)))


def _reshape(c: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``c.reshape(shape)`` without writing out the axes along which ``c`` does not vary."""
    if math.prod(shape) == 0:
        raise ValueError("empty")
    small_old: list[int] = []
    small_new: list[int] = []
    for old, new in _axis_groups(tuple(c.shape), shape):
        uniform = all(c.shape[i] == 1 or c.stride(i) == 0 for i in old)
        small_old += [1 if uniform else c.shape[i] for i in old]
        small_new += [1 if uniform else shape[j] for j in new]
    chosen = c[tuple(slice(0, size) for size in small_old)]
    return compressed(chosen.reshape(small_new).expand(shape))


def _axis_groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The runs of axes of two shapes that hold the same elements."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        mine, yours, a, b = [], [], 1, 1
        while True:
            if a <= b and i < len(old) and (a != b or not mine):
                a *= old[i]
                mine.append(i)
                i += 1
            elif j < len(new) and (a != b or not yours):
                b *= new[j]
                yours.append(j)
                j += 1
            else:
                break
        groups.append((mine, yours))
    return groups


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
