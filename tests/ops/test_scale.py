"""Scaling: every way to combine factors that are the same along any of a map's axes."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch

from foveate import ops
from foveate.ops.native import library
from foveate.ops.scale import native, operator
from foveate.ops.scale._arguments import Arguments
from tests.ops.gate_operators import FORMATS, assert_equal, values_and_gradients

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
BACKENDS = [pytest.param("native", marks=needs_native), "portable"]

SIZES = [(2, 19, 7, 14), (1, 1, 1, 1), (1, 40, 1, 3), (2, 3, 9, 33), (1, 130, 5, 2), (0, 4, 3, 2)]
COMBINATIONS = [
    ("product", 1), ("product", 2), ("product", 3),
    ("mean", 1), ("mean", 2), ("mean", 3), ("sign", 2),
]  # fmt: skip
KINDS = list(product((True, False), repeat=3))


def meaning(x, *factors, combination):
    if combination == "sign":
        return x.clamp_min(0) * factors[0] + x.clamp_max(0) * factors[1]
    whole = torch.stack(torch.broadcast_tensors(*factors))
    return x * (whole.mean(0) if combination == "mean" else whole.prod(0))


def factor(size, kind):
    """One that differs along the axes of its kind."""
    return torch.rand(size[0], *(n if own else 1 for n, own in zip(size[1:], kind, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("combination", "count"), COMBINATIONS)
def test_equals_its_meaning(backend, memory_format, combination, count, poisoned_memory):
    for size, first in product(SIZES, range(len(KINDS))):
        x = torch.randn(size).contiguous(memory_format=memory_format)
        kinds = [KINDS[(first + 3 * i) % len(KINDS)] for i in range(count)]
        given = [x, *(factor(size, kind) for kind in kinds)]
        scale, expected = (partial(f, combination=combination) for f in (ops.scale, meaning))
        assert_equal(scale, expected, given, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_factors_of_any_strides(backend):
    x = torch.randn(2, 8, 6, 10)[:, ::2, 1:]
    rows = torch.rand(2, 1, 5, 4).permute(0, 3, 2, 1)
    columns = torch.rand(1, 1, 1, 10)  # of one image, for all
    repeated = torch.rand(2, 4, 1, 1).expand(-1, -1, 5, 10)
    given = [x, rows, columns, repeated]
    assert_equal(ops.scale, partial(meaning, combination="product"), given, backend)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for memory_format, (combination, count) in product(FORMATS, COMBINATIONS[::2]):
        test_equals_its_meaning("native", memory_format, combination, count, None)


@needs_native
def test_threads_change_no_number(two_threads):
    given = [torch.randn(2, 64, 9, 11), torch.rand(2, 1, 9, 11), torch.rand(2, 64, 1, 1)]
    given = [x.requires_grad_() for x in given]
    both = values_and_gradients(ops.scale, given)
    torch.set_num_threads(1)
    one = values_and_gradients(ops.scale, given)
    assert all(torch.equal(a, b) for a, b in zip(both, one, strict=True))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("others", [0, 2])
def test_the_operator_keeps_the_rules(memory_format, others):
    x = torch.randn(2, 5, 4, 3).contiguous(memory_format=memory_format)
    factors = [torch.rand(2, 5, 1, 3), torch.rand(2, 1, 4, 3), torch.rand(2, 5, 1, 1)]
    given = [y.requires_grad_() for y in [x, *factors[: 1 + others]]]
    a = Arguments(*given, *[None] * (2 - others), "product")
    torch.library.opcheck(torch.ops.foveate.scale.default, (*a, True, True))
    out, kept = operator.scale.overload(*a, True, True)
    a = Arguments(*(y.detach() for y in given), *[None] * (2 - others), "product")
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.foveate.scale_backward.default,
            (torch.ones_like(out), None, None, kept, True, *a),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_second_derivatives():
    given = [torch.randn(2, 3, 4, 2), torch.rand(2, 3, 1, 2), torch.rand(2, 1, 4, 1)]
    given = [x.double().requires_grad_() for x in given]
    assert torch.autograd.gradgradcheck(lambda x, *f: ops.scale(x, *f), given)


def test_compiled_exported_and_traced():
    given = (torch.randn(2, 5, 4, 3), torch.rand(2, 5, 1, 3), torch.rand(2, 1, 4, 3))
    expected = ops.scale(*given, combination="mean")

    class Scale(torch.nn.Module):
        def forward(self, x, first, second):
            return ops.scale(x, first, second, combination="mean")

    exported = torch.export.export(Scale(), given)
    assert not any("foveate" in str(node.target) for node in exported.graph.nodes)
    traced = torch.jit.trace(Scale(), given)
    for made in (torch.compile(Scale(), fullgraph=True), exported.module(), traced):
        torch.testing.assert_close(made(*given), expected)


def test_factors_take_the_dtype_of_the_map():
    x = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16)
    assert ops.scale(x, torch.rand(1, 2, 1, 1)).dtype is torch.bfloat16
    assert "it scales float32" in ops.explain("scale", x, torch.rand(1, 2, 1, 1))


X = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((None, X), {}, TypeError, "x must be a torch.Tensor"),
        ((X, 2.0), {}, TypeError, "a factor must be a torch.Tensor"),
        ((X, torch.zeros(1, 3, 1, 1)), {}, ValueError, r"\(1, 2, 3, 4\) or 1"),
        ((X, torch.zeros(2)), {}, ValueError, "got shape"),
        ((X, X), {"combination": "sum"}, ValueError, "combination"),
        ((X, X), {"combination": "sign"}, ValueError, "takes first and second"),
        ((X, X, X, X), {"combination": "sign"}, ValueError, "got 3 factors"),
        ((X, torch.zeros(1, 2, 1, 1, device="meta")), {}, ValueError, "move them together"),
    ],
)
def test_what_is_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        ops.scale(*given, **options)
