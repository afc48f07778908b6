"""The narrow convolution is PyTorch's convolution, in value, gradient and count."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from foveate import ops
from foveate.ops.narrow_conv import native, operator
from foveate.ops.narrow_conv._arguments import Arguments
from foveate.ops.native import library
from tests.ops.gate_operators import FORMATS, assert_equal, values_and_gradients

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
BACKENDS = [pytest.param("native", marks=needs_native), "portable"]

# Sizes of the map, and of the weight.
CASES = [
    ((2, 2, 14, 70), (1, 2, 7, 7)),
    ((1, 2, 33, 9), (1, 2, 7, 7)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 3, 5, 200), (4, 3, 3, 11)),
    ((1, 4, 17, 3), (2, 4, 9, 1)),
    ((0, 2, 4, 4), (1, 2, 3, 3)),
]


def meaning(x, weight):
    return F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_its_meaning(backend, memory_format, case, poisoned_memory):
    x, weight = (torch.randn(size) for size in case)
    x = x.contiguous(memory_format=memory_format)
    assert_equal(ops.narrow_conv, meaning, [x, weight], backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend):
    x, weight = torch.randn(2, 6, 8, 30)[:, ::3, 1:, :], torch.randn(1, 2, 5, 3).mT
    assert_equal(ops.narrow_conv, meaning, [x, weight], backend)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for case in CASES:
        test_equals_its_meaning("native", torch.contiguous_format, case, None)


@needs_native
def test_threads_change_no_number(two_threads):
    given = [torch.randn(2, 2, 40, 30), torch.randn(1, 2, 7, 7)]
    given = [x.requires_grad_() for x in given]
    both = values_and_gradients(ops.narrow_conv, given)
    torch.set_num_threads(1)
    one = values_and_gradients(ops.narrow_conv, given)
    assert all(torch.equal(a, b) for a, b in zip(both, one, strict=True))


def test_the_operator_keeps_the_rules():
    given = [torch.randn(2, 2, 5, 6).requires_grad_(), torch.randn(1, 2, 3, 3).requires_grad_()]
    a = Arguments(*given)
    torch.library.opcheck(torch.ops.foveate.narrow_conv.default, (*a, True, True))
    out, kept = operator.narrow_conv.overload(*a, True, True)
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.foveate.narrow_conv_backward.default,
            (torch.ones_like(out), None, None, kept, True, *(x.detach() for x in given)),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_flops_are_those_of_a_convolution():
    x, weight = torch.randn(2, 2, 5, 6), torch.randn(1, 2, 3, 3)
    counts = []
    for convolve in (ops.narrow_conv, meaning):
        given = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        with FlopCounterMode(display=False) as counter:
            convolve(*given).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_compiled_exported_and_traced():
    given = (torch.randn(2, 2, 5, 6), torch.randn(1, 2, 3, 3))

    class Convolve(torch.nn.Module):
        def forward(self, x, weight):
            return ops.narrow_conv(x, weight)

    exported = torch.export.export(Convolve(), given)
    assert not any("foveate" in str(node.target) for node in exported.graph.nodes)
    traced = torch.jit.trace(Convolve(), given)
    for made in (torch.compile(Convolve(), fullgraph=True), exported.module(), traced):
        torch.testing.assert_close(made(*given), meaning(*given), rtol=1e-4, atol=1e-5)


def test_autocast_and_more_channels_are_portable_and_say_so():
    x, weight = torch.randn(1, 2, 5, 6), torch.randn(1, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.narrow_conv(x, weight).dtype is torch.bfloat16
    wide = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 3, 3)
    assert "it takes up to 4 channels" in ops.explain("narrow_conv", *wide)
    torch.testing.assert_close(ops.narrow_conv(*wide), meaning(*wide))


X = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("x", "weight", "error", "message"),
    [
        (X, None, TypeError, "weight must be a torch.Tensor"),
        (X, torch.zeros(1, 3, 3, 3), ValueError, r"\(O, 2, kh, kw\)"),
        (X, torch.zeros(1, 2, 2, 3), ValueError, "odd sides"),
        (X, torch.zeros(1, 2, 3, 3, dtype=torch.float64), ValueError, "share one dtype"),
        (X, torch.zeros(1, 2, 3, 3, device="meta"), ValueError, "move them together"),
    ],
)
def test_what_is_refused(x, weight, error, message):
    with pytest.raises(error, match=message):
        ops.narrow_conv(x, weight)
