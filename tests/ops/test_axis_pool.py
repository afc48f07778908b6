"""Axis pooling: the planes of every axis, in both memory formats, with the first of equals."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from foveate import ops
from foveate.ops.axis_pool import native, operator
from foveate.ops.axis_pool._arguments import Arguments
from foveate.ops.native import library
from tests.ops.gate_operators import FORMATS, assert_equal, values_and_gradients

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
BACKENDS = [pytest.param("native", marks=needs_native), "portable"]

SIZES = [(2, 19, 7, 14), (1, 1, 1, 1), (1, 40, 1, 3), (2, 3, 9, 33), (1, 130, 5, 2), (0, 4, 3, 2)]
AXES = [["channels", "height", "width"], ["width", "height"], ["channels"], ["height"], ["width"]]


def meaning(x, axes, largest):
    """Written out, by the order of the planes' axes."""
    orders = {"channels": (0, 2, 3, 1), "height": (0, 3, 1, 2), "width": (0, 2, 1, 3)}
    planes = []
    for axis in axes:
        lines = x.permute(orders[axis])
        found = [lines.max(-1).values, lines.mean(-1)]
        planes.append(torch.stack(found if largest else found[1:], 1))
    return planes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_equals_its_meaning(backend, largest, axes, poisoned_memory):
    for size in SIZES:
        for memory_format in FORMATS:
            x = torch.randn(size).contiguous(memory_format=memory_format)
            pool = partial(ops.axis_pool, axes=axes, largest=largest)
            assert_equal(pool, partial(meaning, axes=axes, largest=largest), [x], backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_view_of_any_strides(backend):
    x = torch.randn(2, 9, 4, 12)[:, 1::2, :, ::3]
    every = partial(ops.axis_pool, axes=AXES[0])
    assert_equal(every, partial(meaning, axes=AXES[0], largest=True), [x], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", ["channels", "height", "width"])
def test_the_first_of_equals_has_the_gradient(backend, axis):
    x = torch.zeros(1, 20, 20, 20, requires_grad=True)
    with ops.use_backend(backend):
        (plane,) = ops.axis_pool(x, [axis])
        plane[:, 0].sum().backward()
    first = x.grad.movedim({"channels": 1, "height": 2, "width": 3}[axis], 0)
    assert (first[0] == 1).all()
    assert (first[1:] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(backend, number):
    x = torch.randn(2, 21, 9, 11)
    x[0, 3, 4, 5] = x[0, 20, 4, 5] = number
    x[1, :, 0] = -math.inf
    expected = meaning(x, AXES[0], True)
    with ops.use_backend(backend):
        for memory_format in FORMATS:
            found = ops.axis_pool(x.contiguous(memory_format=memory_format), AXES[0])
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, equal_nan=True)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    test_equals_its_meaning("native", True, AXES[0], None)


@needs_native
def test_threads_change_no_number(two_threads):
    x = torch.randn(2, 64, 9, 11, requires_grad=True)
    both = values_and_gradients(lambda x: ops.axis_pool(x, AXES[0]), [x])
    torch.set_num_threads(1)
    one = values_and_gradients(lambda x: ops.axis_pool(x, AXES[0]), [x])
    assert all(torch.equal(a, b) for a, b in zip(both, one, strict=True))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_operator_keeps_the_rules(memory_format):
    x = torch.randn(2, 5, 4, 3).contiguous(memory_format=memory_format).requires_grad_()
    a = Arguments(x, [3, 1], True)
    torch.library.opcheck(torch.ops.foveate.axis_pool.default, (*a, True, True))
    out, kept = operator.axis_pool.overload(*a, True, True)
    given = (torch.ones_like(out), None, None, kept, True)
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.foveate.axis_pool_backward.default,
            (*given, x.detach(), [3, 1], True),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_second_derivatives():
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ops.axis_pool(x.sin(), AXES[0]), x)


def test_compiled_exported_and_traced():
    x = torch.randn(2, 5, 4, 3).contiguous(memory_format=torch.channels_last)
    expected = ops.axis_pool(x, AXES[0])

    class Pool(torch.nn.Module):
        def forward(self, x):
            return tuple(ops.axis_pool(x, AXES[0]))

    exported = torch.export.export(Pool(), (x,))
    assert not any("foveate" in str(node.target) for node in exported.graph.nodes)
    for made in (
        torch.compile(Pool(), fullgraph=True),
        exported.module(),
        torch.jit.trace(Pool(), x),
    ):
        for ours, theirs in zip(made(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@needs_native
def test_other_precisions_are_portable_and_say_so():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    assert ops.axis_pool(x, ["width"])[0].dtype is torch.float64
    assert "float64" in ops.explain("axis_pool", x, ["width"])
    half = x.bfloat16()
    assert "it pools float32" in ops.explain("axis_pool", half, ["width"])
    with ops.use_backend("native"), pytest.raises(RuntimeError, match="it pools float32"):
        ops.axis_pool(half, ["width"])


@pytest.mark.parametrize(
    ("x", "axes", "error", "message"),
    [
        (None, ["width"], TypeError, "x must be a torch.Tensor"),
        (torch.zeros(2, 3, 4), ["width"], ValueError, r"must be \(B, C, H, W\)"),
        (torch.zeros(2, 3, 0, 4), ["width"], ValueError, "at least 1"),
        (torch.zeros(1, 1, 1, 1, dtype=torch.int64), ["width"], ValueError, "floating"),
        (torch.zeros(1, 1, 1, 1), [], ValueError, "one or more"),
        (torch.zeros(1, 1, 1, 1), "width", ValueError, "one or more"),
        (torch.zeros(1, 1, 1, 1), ["width", "width"], ValueError, "each once"),
        (torch.zeros(1, 1, 1, 1), ["widest"], ValueError, "unknown axis"),
    ],
)
def test_what_is_refused(x, axes, error, message):
    with pytest.raises(error, match=message):
        ops.axis_pool(x, axes)
