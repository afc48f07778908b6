"""Local aggregation: every backend is the definition, in every layout that groups can have."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate import ops
from foveate.ops.aggregate import native, reference
from foveate.ops.native import library
from tests.ops.memory_layouts import LAYOUTS

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
BACKENDS = [*["native"] * library.available(), "portable"]

# (batch, height, width, channels that share, groups), kernel, dilation, border
CASES = [
    ((2, 5, 6, 8, 2), (3, 3), (1, 1), "reflect"),
    ((1, 9, 8, 8, 8), (7, 7), (1, 1), "reflect"),
    ((2, 5, 7, 9, 16), (5, 5), (1, 1), "zero"),
    ((1, 6, 5, 3, 5), (4, 3), (1, 2), "zero"),
    ((1, 4, 9, 2, 12), (3, 5), (2, 3), "reflect"),
    ((2, 3, 4, 1, 1), (1, 1), (1, 1), "zero"),
    ((1, 1, 7, 13, 1), (3, 3), (1, 1), "reflect"),
    ((1, 6, 6, 1, 11), (2, 2), (1, 1), "zero"),
]


def make(case, dtype=torch.float32):
    (batch, height, width, share, groups), kernel, _, _ = case
    values = torch.randn(batch, height, width, share, groups, dtype=dtype)
    weights = torch.randn(batch, height, width, kernel[0] * kernel[1], groups, dtype=dtype)
    return [values.requires_grad_(), weights.requires_grad_()]


def aggregate(tensors, case, normalize=False):
    _, kernel, dilation, border = case
    return ops.local_aggregate(*tensors, kernel, dilation, border=border, normalize=normalize)


def gradients(out, tensors):
    grad = torch.cos(torch.arange(out.numel()).double()).view(out.shape).to(out.dtype)
    return torch.autograd.grad(out, tensors, grad)


def assert_is_definition(case, normalize, tolerance, dtype=torch.float32):
    tensors = make(case, dtype)
    precise = [x.detach().double().requires_grad_() for x in tensors]
    out, expected = (
        aggregate(tensors, case, normalize),
        reference.local_aggregate(*precise, *case[1:], normalize),
    )
    assert out.dtype is dtype
    found = [out, *gradients(out, tensors)]
    wanted = [expected, *gradients(expected, precise)]
    for ours, theirs in zip(found, wanted, strict=True):
        largest = theirs.abs().max().clamp_min(1e-3)
        assert ours.shape == theirs.shape
        assert ((ours.double() - theirs).abs().max() / largest).item() <= tolerance


every_case = pytest.mark.parametrize("case", CASES, ids=str)
either = pytest.mark.parametrize("normalize", [False, True], ids=["weights", "logits"])


@every_case
@either
def test_portable_is_the_definition(case, normalize):
    with ops.use_backend("portable"):
        assert_is_definition(case, normalize, 1e-12, torch.float64)


@needs_native
@every_case
@either
def test_native_is_the_definition(case, normalize, poisoned_memory):
    with ops.use_backend("native"):
        assert_is_definition(case, normalize, 3e-6)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set_is_right(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for case in CASES:
        assert_is_definition(case, True, 3e-6)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@either
def test_half_precision(dtype, normalize):
    assert_is_definition(CASES[1], normalize, 2e-2, dtype)


@needs_native
@either
def test_threads_share_the_rows(two_threads, normalize):
    assert_is_definition(((3, 11, 7, 8, 4), (5, 5), (1, 1), "reflect"), normalize, 3e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
@either
def test_any_strides(backend, lay, normalize):
    case = ((2, 5, 6, 4, 3), (3, 2), (1, 1), "reflect")
    laid = [lay(x.detach()) for x in make(case)]

    def results(values, weights, turn):
        leaves = [x.detach().requires_grad_() for x in (values, weights)]
        out = aggregate(leaves, case, normalize)
        grad = turn(torch.cos(torch.arange(out.numel())).view(out.shape))
        return out, *torch.autograd.grad(out, leaves, grad)

    with ops.use_backend(backend):
        found = results(*laid, lay)
        wanted = results(*(x.contiguous() for x in laid), lambda x: lay(x).contiguous())
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_whose_taps_lie_side_by_side(dtype):
    case = CASES[2]
    values, weights = (x.detach() for x in make(case, dtype))
    torch.testing.assert_close(
        aggregate([values, weights.mT.contiguous().mT], case), aggregate([values, weights], case)
    )


@either
def test_gradients_by_differences(normalize):
    for border in ("zero", "reflect"):
        case = ((1, 3, 4, 2, 2), (3, 3), (1, 1), border)
        tensors = make(case, torch.float64)
        torch.autograd.gradcheck(lambda *x, c=case: aggregate(x, c, normalize), tensors)
        torch.autograd.gradgradcheck(lambda *x, c=case: aggregate(x, c, normalize), tensors)


@needs_native
@either
def test_second_derivatives_through_the_compiled_forward(normalize):
    tensors = make(CASES[0])
    precise = [x.detach().double().requires_grad_() for x in tensors]

    def second(given):
        out = aggregate(given, CASES[0], normalize)
        (first,) = torch.autograd.grad(out.square().sum(), given[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), given)

    for ours, theirs in zip(second(tensors), second(precise), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
@either
def test_operators_keep_the_rules(case, normalize):
    _, kernel, dilation, border = case
    tensors = make(case)
    options = list(kernel), list(dilation), border, normalize
    torch.library.opcheck(
        torch.ops.foveate.local_aggregate.default, (*tensors, *options, False, True)
    )
    tensors = [x.detach() for x in tensors]
    out, kept = torch.ops.foveate.local_aggregate(*tensors, *options, False, True)
    torch.library.opcheck(
        torch.ops.foveate.local_aggregate_backward.default,
        (torch.ones_like(out), None, None, kept, False, *tensors, *options),
    )


@needs_native
def test_compiled_whole():
    case, tensors = CASES[0], make(CASES[0])
    run = torch.compile(lambda *x: aggregate(x, case, True), fullgraph=True, backend="aot_eager")
    out, expected = run(*tensors), aggregate(tensors, case, True)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_exported_for_any_size():
    class Sum(torch.nn.Module):
        def forward(self, values, weights):
            return ops.local_aggregate(values, weights, 3, border="reflect", normalize=True)

    free = torch.export.Dim.DYNAMIC
    sizes = {0: free, 1: free, 2: free}
    sample = make(((2, 9, 8, 4, 3), (3, 3), None, None))
    program = torch.export.export(Sum(), tuple(sample), dynamic_shapes=(sizes, sizes)).module()
    for size in ((1, 5, 4), (3, 6, 11)):
        given = make(((*size, 4, 3), (3, 3), None, None))
        torch.testing.assert_close(program(*given), Sum()(*given))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    case = ((0, 6, 6, 2, 4), (3, 3), (1, 1), "zero")
    tensors = make(case)
    with ops.use_backend(backend):
        out = aggregate(tensors, case, True)
        found = gradients(out, tensors)
    assert out.shape == (0, 6, 6, 2, 4)
    assert all(g.shape == x.shape for g, x in zip(found, tensors, strict=True))


def test_flops_count_taps_at_every_border():
    tensors = make(CASES[3])
    with FlopCounterMode(display=False) as counter:
        out = aggregate(tensors, CASES[3])
        forward = counter.get_total_flops()
        gradients(out, tensors)
    assert forward == 2 * (6 * 5) * (4 * 3) * (3 * 5)
    assert counter.get_total_flops() == 3 * forward


def test_explained():
    values, weights = make(CASES[0])
    said = ops.explain("local_aggregate", values, weights, 3)
    assert "triton: cannot: it has no kernel for local_aggregate" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(2, 5, 6, 16)}, r"values must be \(B, H, W, S, G\)"),
        ({"weights": torch.zeros(2, 5, 6, 9, 3)}, r"\(2, 5, 6, 9, 2\) for values of shape"),
        ({"weights": torch.zeros(2, 5, 6, 9, 2).double()}, "share one dtype"),
        ({"weights": torch.zeros(2, 5, 6, 9, 2, dtype=torch.long)}, "floating dtype"),
        ({"border": "mask"}, "border"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"dilation": 0}, "dilation"),
    ],
)
def test_what_is_refused(change, message):
    values, weights = make(CASES[0])
    call = {"values": values, "weights": weights, "kernel_size": 3} | change
    with pytest.raises(ValueError, match=message):
        ops.local_aggregate(**call)
    with pytest.raises(TypeError, match=r"weights must be a torch\.Tensor, got list"):
        ops.local_aggregate(values, [1.0], 3)
