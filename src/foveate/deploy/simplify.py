"""Steps that a graph does not need: equal ones, and those that do nothing.

Blocks of a stage have the same index tables, masks and sizes, and each computes them. With free
sizes they stand in the graph and not among its constants, and are most of its nodes.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from foveate.deploy.fold import mutates, rename_outputs, repeats

_ATEN = torch.ops.aten


def simplify(program: ExportedProgram) -> None:
    """Leave out, in place, steps that equal an earlier one, arguments included, or do nothing.

    A program that writes into a tensor stays as it is: equal steps need not be equal then.

    Args:
        program: as ``torch.export`` recorded it.
    """
    graph, renamed = program.graph, {}
    steps = [node for node in graph.nodes if node.op == "call_function"]
    if any(map(mutates, steps)):
        return
    first: dict[tuple, fx.Node] = {}
    for node in steps:
        if node.target is _ATEN._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        if not repeats(node):
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        same = node.args[0] if _does_nothing(node) else first.setdefault(key, node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
            renamed[node.name] = same.name
    rename_outputs(program, renamed)
    program.graph_module.recompile()


def _does_nothing(node: fx.Node) -> bool:
    """Whether a step gives its tensor as it is: an alias, or the type that it has."""
    if node.target is _ATEN.alias.default:
        return True
    if node.target is not _ATEN.to.dtype:
        return False
    (given, *_) = node.all_input_nodes
    return given.meta["val"].dtype is node.meta["val"].dtype
