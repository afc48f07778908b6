"""Constant folding: what a graph computes from no input is computed once and kept.

Index tables and masks of a known size become constants, so that a runtime need not know the
operators that made them, nor run them for every image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

_MOST_BYTES = 32 * 2**20
"""Of a constant; a larger one, such as a tensor expanded over a batch, stays an expression."""


def fold_constants(graph: fx.GraphModule) -> None:
    """Replace, in place, every tensor that depends on no input by a buffer.

    A graph that writes into a constant keeps all of them as they are.
    """
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = _attribute(graph, str(node.target))
        elif node.op == "call_function" and _inputs_known(node, known):
            if _mutates(node):
                return
            if _repeats(node):
                known[node] = _value(node, known)
        elif node.op == "call_function" and _mutates(node) and _first_known(node, known):
            return
    _replace(graph, known)


def _replace(graph: fx.GraphModule, known: dict[fx.Node, Any]) -> None:
    """Put a buffer where a known tensor is read by what is not known."""
    number = 0
    for node, value in known.items():
        read = [user for user in node.users if user not in known]
        small = isinstance(value, Tensor) and value.nbytes <= _MOST_BYTES
        if node.op == "get_attr" or not read or not small:
            continue
        name = f"folded_{number}"
        number += 1
        graph.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _inputs_known(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    return all(given in known for given in node.all_input_nodes)


def _first_known(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    return bool(node.all_input_nodes) and node.all_input_nodes[0] in known


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _repeats(node: fx.Node) -> bool:
    """Whether a step gives the same each time: an operator of PyTorch's without chance."""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", "") == "getitem"
    return torch.Tag.nondeterministic_seeded not in target.tags and target.namespace == "aten"


def _value(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    target: Any = node.target
    return target(*args, **kwargs)


def _attribute(graph: fx.GraphModule, name: str) -> Any:
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value
