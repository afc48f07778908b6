"""Constants of an ONNX graph, stored small: once each, rows once each, in half precision.

Index tables and masks are alike in many layers, and alike for all tiles but those at a border.
What is left out is put back by steps that read constants alone, which runtimes carry out once, when
they load a file; so it costs no time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LARGE = 256
"""Numbers in a constant that is worth it."""
_TABLE = 3
"""Axes of a table; of those that have fewer, runtimes look for some where they are."""


def share(graph: Any) -> None:
    """Keep one of equal constants, and of equal rows along a constant's first axis.

    Args:
        graph: ``onnx.GraphProto``, changed in place.
    """
    from onnx import helper, numpy_helper

    seen: dict[tuple[Any, ...], str] = {}
    renamed: dict[str, str] = {}
    kept, steps = [], []
    for constant in graph.initializer:
        if math.prod(constant.dims) < _LARGE:
            kept.append(constant)
            continue
        values = numpy_helper.to_array(constant)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key in seen:
            renamed[constant.name] = seen[key]
            continue
        seen[key] = name = constant.name
        rows: dict[bytes, int] = {}
        index = np.array([rows.setdefault(row.tobytes(), len(rows)) for row in values])
        if values.ndim < _TABLE or 2 * len(rows) > len(values):
            kept.append(constant)
            continue
        first = np.unique(index, return_index=True)[1]
        kept.append(numpy_helper.from_array(values[first], f"{name}_rows"))
        kept.append(numpy_helper.from_array(index, f"{name}_index"))
        steps.append(helper.make_node("Gather", [f"{name}_rows", f"{name}_index"], [name]))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    _put_first(graph, steps)


def halve(graph: Any) -> None:
    """Keep large constants of float32 in float16.

    Scales of quantization stay. What is beyond float16 is a mask's, and its largest does as well.

    Args:
        graph: ``onnx.GraphProto``, changed in place.
    """
    from onnx import TensorProto, helper, numpy_helper

    most = np.finfo(np.float16).max
    rounding = ("QuantizeLinear", "DequantizeLinear")
    scales = {node.input[1] for node in graph.node if node.op_type in rounding}
    steps = []
    for constant in graph.initializer:
        name, large = constant.name, math.prod(constant.dims) >= _LARGE
        if constant.data_type != TensorProto.FLOAT or not large or name in scales:
            continue
        values = numpy_helper.to_array(constant).clip(-most, most).astype(np.float16)
        constant.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        steps.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    _put_first(graph, steps)


def _put_first(graph: Any, steps: list[Any]) -> None:
    steps = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(steps)
