"""Constants of an ONNX graph take less room and come to the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from foveate.deploy.onnx_constants import halve, share

ROWS = torch.randn(3, 8, 16).numpy()
TABLE = ROWS[[0, 1, 1, 1, 1, 2]]


def added(**constants: np.ndarray):
    """A graph that adds constants to its input one after the other."""
    names = ["x", *(f"y{number}" for number in range(len(constants)))]
    steps = [
        helper.make_node("Add", [before, name], [after])
        for name, before, after in zip(constants, names[:-1], names[1:], strict=True)
    ]
    shape = [6, 8, 16]
    value = helper.make_tensor_value_info
    stored = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    graph = helper.make_graph(
        steps, "g", [value("x", TensorProto.FLOAT, shape)],
        [value(names[-1], TensorProto.FLOAT, shape)], stored,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model) -> np.ndarray:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": np.ones((6, 8, 16), np.float32)})[0]


def test_equal_constants_and_rows_are_kept_once():
    model = added(a=TABLE, b=TABLE.copy(), c=TABLE + 1)
    expected, before = run(model), model.ByteSize()
    share(model.graph)
    assert np.array_equal(run(model), expected)
    assert model.ByteSize() < 0.4 * before
    kept = {each.name: tuple(each.dims) for each in model.graph.initializer}
    assert kept["a_rows"] == (3, 8, 16)
    assert "b_rows" not in kept


def test_what_repeats_little_and_vectors_stay_as_they_are():
    model = added(a=torch.randn(6, 8, 16).numpy(), b=np.ones((1, 16, 16), np.float32)[:, :8])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(512, np.float32), "ones"))
    before = model.SerializeToString()
    share(model.graph)
    assert model.SerializeToString() == before


def test_half_the_bytes_and_masks_stay_masks():
    masked = TABLE.copy()
    masked[0, 0] = np.finfo(np.float32).min
    model = added(a=masked)
    before = run(model)
    halve(model.graph)
    after = run(model)
    assert (after[0, 0] < -6e4).all()
    np.testing.assert_allclose(after[1:], before[1:], rtol=2e-3, atol=2e-3)
    assert {each.data_type for each in model.graph.initializer} == {TensorProto.FLOAT16}
