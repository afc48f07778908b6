"""Joint projections taken apart: a linear layer whose output is split becomes one a part.

    q, k, v = split(x W^T + b)   ->   q = x W_q^T + b_q,   k = x W_k^T + b_k,   v = x W_v^T + b_v

Eager PyTorch gains by one large product and reads its parts in place. Runtimes copy the parts out,
with strides at that, and products with the parts of the weights cost them no more.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from foveate.layout import is_same

_aten = torch.ops.aten
_LINEAR = _aten.linear.default
_VIEWS = (_aten.unflatten.int, _aten.view.default, _aten.reshape.default)
_UNBIND = _aten.unbind.int
_DIM_OF_SPLIT = {
    _UNBIND: 1,
    _aten.chunk.default: 2,
    _aten.split.Tensor: 2,
    _aten.split_with_sizes.default: 2,
}
"""Steps that split, and which of their arguments is the axis; 0 where it is left out."""


class _Split(NamedTuple):
    """A step that takes a projection's output apart.

    Attributes:
        node: the step.
        features: the output's channels as the axes that they were laid out in.
        axis: among these, the one that is split.
        order: of all axes, leading ones included, before the split; None for as they are.
    """

    node: fx.Node
    features: tuple[int, ...]
    axis: int
    order: tuple[int, ...] | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the parts, along the axis."""
        if self.node.target is _UNBIND:
            return (1,) * self.features[self.axis]
        dim = _dim(self.node)
        return tuple(part.shape[dim] for part in self.node.meta["val"])


def split_projections(graph: fx.GraphModule) -> None:
    """Give, in place, every part of a projection that is only used in parts a layer of its own."""
    for node in graph.graph.nodes:  # also those made here: parts may be split again
        if node.target is _LINEAR:
            splits = list(_uses(node, (_width(node),), None))
            if _agree(splits):
                _take_apart(graph.graph, node, splits)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _uses(
    node: fx.Node, features: tuple[int, ...], order: tuple[int, ...] | None
) -> Iterator[_Split | None]:
    """What splits a projection's output; None for each other use."""
    for user in node.users:
        if user.target in _VIEWS and len(features) == 1 and order is None:
            axes = _channel_axes(user)
            yield from _uses(user, axes, None) if axes else (None,)
        elif user.target is _aten.permute.default and order is None:
            dims: Any = user.args[1]
            yield from _uses(user, features, tuple(dim % len(dims) for dim in dims))
        elif user.target in _DIM_OF_SPLIT:
            yield _split(user, features, order)
        else:
            yield None


def _split(
    node: fx.Node, features: tuple[int, ...], order: tuple[int, ...] | None
) -> _Split | None:
    place, rank = _dim(node), _value(node.all_input_nodes[0]).dim()
    axis = (order[place] if order else place) - (rank - len(features))
    by_items = all(user.target is operator.getitem for user in node.users)
    scalars = node.target is _UNBIND and len(features) == 1
    return _Split(node, features, axis, order) if axis >= 0 and by_items and not scalars else None


def _agree(splits: list[_Split | None]) -> bool:
    """Whether there are splits and nothing else, all into the same parts."""
    return len({each and (each.features, each.axis, each.sizes) for each in splits}) == 1 and (
        splits[0] is not None
    )


def _take_apart(graph: fx.Graph, linear: fx.Node, splits: list[Any]) -> None:
    x, *parameters = (each for each in linear.args if each is not None)
    start = 0
    for number, size in enumerate(splits[0].sizes):
        with graph.inserting_before(linear.next):
            rows = (_rows(graph, each, splits[0], start, size) for each in parameters)
            part = _step(graph, _LINEAR, x, *rows)
            part.meta = {**linear.meta, "val": _value(part)}
            for split in splits:
                laid_out = _laid_out(graph, part, split, size)
                for item in list(split.node.users):
                    if item.args[1] == number:
                        item.replace_all_uses_with(laid_out)
        start += size


def _rows(graph: fx.Graph, parameter: Any, split: _Split, start: int, size: int) -> fx.Node:
    """A part's weight or bias; a constant, once constants are folded."""
    rows = _step(graph, _aten.unflatten.int, parameter, 0, list(split.features))
    rows = _step(graph, _aten.narrow.default, rows, split.axis, start, size)
    return _step(graph, _aten.flatten.using_ints, rows, 0, len(split.features) - 1)


def _laid_out(graph: fx.Graph, part: fx.Node, split: _Split, size: int) -> fx.Node:
    """A part's projection as the split gave it."""
    axes, order = list(split.features), split.order
    axes[split.axis] = size
    if split.node.target is _UNBIND:
        del axes[split.axis]
        if order:
            gone = len(order) - len(split.features) + split.axis
            order = tuple(dim - (dim > gone) for dim in order if dim != gone)
    if len(axes) > 1:
        part = _step(graph, _aten.unflatten.int, part, -1, axes)
    return _step(graph, _aten.permute.default, part, list(order)) if order else part


def _step(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """A call in the graph, with the tensor without numbers that it gives."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.map_arg(args, _value))
    return node


def _channel_axes(view: fx.Node) -> tuple[int, ...] | None:
    """The axes that a view makes of the last one; None if it does anything else."""
    before, after = _value(view.all_input_nodes[0]).shape, _value(view).shape
    count = len(after) - len(before) + 1
    leading = zip(before[:-1], after, strict=False)
    if count < 2 or not all(is_same(one, other) for one, other in leading):
        return None
    axes = tuple(after[-count:])
    return axes if all(isinstance(size, int) for size in axes) else None


def _dim(node: fx.Node) -> int:
    place = _DIM_OF_SPLIT[node.target]
    dim: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return dim % _value(node.all_input_nodes[0]).dim()


def _width(linear: fx.Node) -> int:
    return _value(linear.args[1]).shape[0]


def _value(node: Any) -> Tensor:
    """The tensor without numbers that was recorded with a step."""
    return node.meta["val"]
