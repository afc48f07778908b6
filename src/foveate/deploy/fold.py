"""Constant folding: what a graph computes from no input is computed once and kept.

Index tables and masks of a known size become constants, so that a runtime need not know the
operators that made them, nor run them for every image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

_MOST_BYTES = 32 * 2**20
"""Of a constant; a larger one, such as a tensor expanded over a batch, stays an expression."""

_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def fold_constants(program: ExportedProgram) -> None:
    """Replace, in place, every tensor that depends on no input by a constant of the program.

    Steps keep what is noted of them, such as their modules; parameters that are read no longer are
    dropped. A program that writes into a constant keeps all of them as they are.

    Args:
        program: as ``torch.export`` recorded it.
    """
    known = _state(program)
    for node in program.graph.nodes:
        if node.op == "call_function" and _inputs_known(node, known):
            if mutates(node):
                return
            if repeats(node):
                known[node] = _value(node, known)
        elif node.op == "call_function" and mutates(node) and _first_known(node, known):
            return
    _replace(program, known)
    program.graph.eliminate_dead_code()
    _drop_unread(program)
    program.graph_module.recompile()


def _state(program: ExportedProgram) -> dict[fx.Node, Any]:
    """Parameters, buffers and constants by the nodes that stand for them."""
    by_name = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    tensors = {**program.constants, **program.state_dict}
    return {
        by_name[spec.arg.name]: tensors[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.kind in _STATE and spec.target in tensors
    }


def _replace(program: ExportedProgram, known: dict[fx.Node, Any]) -> None:
    """Put a constant where a known tensor is read by what is not known."""
    specs, renamed = program.graph_signature.input_specs, {}
    places = program.graph.find_nodes(op="placeholder")
    place = next(i for i, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT)
    for node, value in known.items():
        read = [user for user in node.users if user not in known]
        small = isinstance(value, Tensor) and value.nbytes <= _MOST_BYTES
        if node.op == "placeholder" or not read or not small:
            continue
        value = value.detach().clone(memory_format=torch.contiguous_format)
        with program.graph.inserting_before(places[place]):
            constant = program.graph.placeholder(f"folded_{node.name}")
        fake = node.meta["val"].fake_mode
        constant.meta["val"] = fake.from_tensor(value, static_shapes=True)
        program.constants[constant.name] = value
        argument = TensorArgument(constant.name)
        specs.insert(place, InputSpec(InputKind.CONSTANT_TENSOR, argument, constant.name))
        places.insert(place, constant)
        node.replace_all_uses_with(constant)
        renamed[node.name] = constant.name
    rename_outputs(program, renamed)


def rename_outputs(program: ExportedProgram, renamed: Mapping[str, str]) -> None:
    """Let outputs be read from other steps: new names by those that stood there."""
    for output in program.graph_signature.output_specs:
        if isinstance(output.arg, TensorArgument):
            output.arg.name = renamed.get(output.arg.name, output.arg.name)


def _drop_unread(program: ExportedProgram) -> None:
    """Leave out parameters and constants that only went into others."""
    signature = program.graph_signature
    places = program.graph.find_nodes(op="placeholder")
    kept = []
    for node, spec in zip(places, signature.input_specs, strict=True):
        if spec.kind in _STATE and not node.users:
            program.graph.erase_node(node)
            for tensors in (program.state_dict, program.constants):
                tensors.pop(spec.target, None)
        else:
            kept.append(spec)
    signature.input_specs[:] = kept


def _inputs_known(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    return all(given in known for given in node.all_input_nodes)


def _first_known(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    return bool(node.all_input_nodes) and node.all_input_nodes[0] in known


def mutates(node: fx.Node) -> bool:
    """Whether a step writes into a tensor."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def repeats(node: fx.Node) -> bool:
    """Whether a step gives the same each time: PyTorch's own without chance, or arithmetic."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in target.tags and target.namespace == "aten"
    return getattr(target, "__module__", "") in ("_operator", "math", "torch")


def _value(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    target: Any = node.target
    return target(*args, **kwargs)
