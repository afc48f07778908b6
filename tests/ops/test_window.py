"""Window attention: every backend is the definition, in every shape that a window can take."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate import ops
from foveate.ops.native import library
from foveate.ops.window import native, reference
from foveate.ops.window.windows import fitted
from tests.ops.memory_layouts import LAYOUTS

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())

# (batch, height, width, heads, channels of keys, of values), window, shift, spread, bias
CASES = [
    ((2, 14, 14, 3, 32, 32), 7, 0, False, True),
    ((1, 14, 14, 2, 16, 16), (7, 7), (3, 3), False, True),
    ((2, 10, 9, 2, 5, 7), (4, 3), (2, 1), False, True),
    ((2, 10, 9, 2, 8, 3), (4, 3), (0, 2), False, False),
    ((1, 9, 11, 2, 8, 8), (3, 4), 0, True, False),
    ((1, 13, 17, 2, 40, 33), (6, 7), 0, True, True),
    ((1, 12, 5, 1, 16, 3), (None, 2), 0, False, False),
    ((1, 5, 12, 1, 1, 1), (2, None), 0, True, True),
    ((1, 1, 1, 1, 1, 2), 7, 0, False, True),
    ((1, 1, 9, 2, 4, 4), (3, 3), 0, False, True),
    ((2, 6, 7, 1, 64, 20), None, 0, False, False),
]


def make(case, dtype=torch.float32):
    (batch, height, width, heads, dim, value_dim), window, _, _, with_bias = case
    qkv = torch.randn(batch, height, width, heads, 2 * dim + value_dim, dtype=dtype)
    maps = [x.detach().requires_grad_() for x in qkv.split([dim, dim, value_dim], -1)]
    if not with_bias:
        return [*maps, None]
    rows, columns = fitted(
        (height, width), window if isinstance(window, tuple) else (window, window)
    )
    bias = torch.randn(heads, rows * columns, rows * columns, dtype=dtype)
    return [*maps, bias.requires_grad_()]


def attend(tensors, case, **options):
    _, window, shift, spread, _ = case
    *maps, bias = tensors
    window = (None, None) if window is None else window
    return ops.window_attention(*maps, window, shift, spread=spread, bias=bias, **options)


def gradients(out, tensors):
    grad = torch.cos(torch.arange(out.numel()).double()).view(out.shape).to(out.dtype)
    return torch.autograd.grad(out, [x for x in tensors if x is not None], grad)


def assert_is_definition(case, tolerance, dtype=torch.float32):
    tensors = make(case, dtype)
    precise = [None if x is None else x.detach().double().requires_grad_() for x in tensors]
    out = attend(tensors, case)
    _, window, shift, spread, _ = case
    window = (None, None) if window is None else window
    expected = reference.window_attention(
        *precise[:3], window, shift, spread=spread, bias=precise[3]
    )
    assert out.dtype is dtype
    found = [out, *gradients(out, tensors)]
    wanted = [expected, *gradients(expected, precise)]
    for ours, theirs in zip(found, wanted, strict=True):
        largest = theirs.abs().max().clamp_min(1e-3)
        assert ours.shape == theirs.shape
        assert ((ours.double() - theirs).abs().max() / largest).item() <= tolerance


@pytest.mark.parametrize("case", CASES, ids=str)
def test_portable_is_the_definition(case):
    with ops.use_backend("portable"):
        assert_is_definition(case, 1e-12, torch.float64)


@needs_native
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_is_the_definition(case, poisoned_memory):
    with ops.use_backend("native"):
        assert_is_definition(case, 3e-6)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set_is_right(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for case in CASES:
        assert_is_definition(case, 3e-6)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    assert_is_definition(CASES[1], 2e-2, dtype)


@needs_native
def test_odd_addresses():
    x = torch.randn(1, 6, 6, 3, 2, 8)
    bytes_ = torch.empty(x.numel() * 4 + 1, dtype=torch.uint8)
    odd = torch.frombuffer(bytes_.numpy()[1:].data, dtype=torch.float32).view_as(x)
    odd.copy_(x)
    assert odd.data_ptr() % 4
    torch.testing.assert_close(
        ops.window_attention(*odd.unbind(3), 3), ops.window_attention(*x.unbind(3), 3)
    )


@needs_native
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=str)
def test_backends_drop_the_same_weights(case):
    tensors, found = make(case), []
    for backend in ("native", "portable"):
        torch.manual_seed(3)
        with ops.use_backend(backend):
            out = attend(tensors, case, dropout_p=0.3)
            found.append([out, *gradients(out, tensors)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6 * theirs.abs().max().item())
    assert not torch.allclose(found[0][0], attend(tensors, case))


def test_gradients_by_differences():
    for case in (CASES[2], CASES[4]):
        _, window, shift, spread, _ = case
        small = ((1, 5, 4, 1, 2, 2), window, shift, spread, False)
        tensors = make(small, torch.float64)[:3]
        torch.autograd.gradcheck(lambda *maps, s=small: attend([*maps, None], s), tensors)
        torch.autograd.gradgradcheck(lambda *maps, s=small: attend([*maps, None], s), tensors)


@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4]], ids=str)
def test_operator_keeps_the_rules(case):
    size, window, shift, spread, _ = case
    *maps, bias = make(case)
    pairs = [list(x) if isinstance(x, tuple) else [x, x] for x in (window, shift)]
    torch.library.opcheck(
        torch.ops.foveate.window_attention.default,
        (*maps, *pairs, spread, bias, size[4] ** -0.5, 0.0, None, False, True),
    )


@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[4]], ids=str)
def test_the_operator_of_the_gradients_keeps_the_rules(case):
    size, window, shift, spread, with_bias = case
    *maps, bias = (None if x is None else x.detach() for x in make(case))
    pairs = [list(x) if isinstance(x, tuple) else [x, x] for x in (window, shift)]
    seed = torch.tensor(5)
    arguments = (*maps, *pairs, spread, bias, size[4] ** -0.5, 0.1, seed)
    out, kept = torch.ops.foveate.window_attention(*arguments, False, True)
    torch.library.opcheck(
        torch.ops.foveate.window_attention_backward.default,
        (torch.ones_like(out), None, None, kept, with_bias, *arguments),
    )


@needs_native
@pytest.mark.parametrize("case", [CASES[2], CASES[4]], ids=str)
def test_second_derivatives_through_the_compiled_forward(case):
    tensors = make(case)
    precise = [None if x is None else x.detach().double().requires_grad_() for x in tensors]

    def second(given):
        out = attend(given, case)
        (first,) = torch.autograd.grad(out.square().sum(), given[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x for x in given if x is not None])

    for ours, theirs in zip(second(tensors), second(precise), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_any_strides(backend, lay):
    *maps, bias = make(((2, 10, 9, 2, 5, 7), (4, 3), (2, 1), False, True))
    laid = [lay(x.detach()) for x in maps]

    def results(q, k, v, bias, turn):
        leaves = [x.detach().requires_grad_() for x in (q, k, v, bias)]
        out = ops.window_attention(*leaves[:3], (4, 3), (2, 1), bias=leaves[3])
        grad = torch.cos(torch.arange(out.numel())).view(out.shape)
        return out, *torch.autograd.grad(out, leaves, turn(grad))

    with ops.use_backend(backend):
        found = results(*laid, bias.mT.contiguous().mT, lay)
        wanted = results(*(x.contiguous() for x in laid), bias, lambda x: lay(x).contiguous())
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@needs_native
def test_threads_share_the_windows(two_threads):
    case = ((3, 28, 21, 2, 16, 16), 7, (3, 3), False, True)
    assert_is_definition(case, 3e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
def test_empty_batch(backend, bias):
    case = ((0, 6, 6, 1, 4, 4), 3, 1, False, bias)
    tensors = make(case)
    with ops.use_backend(backend):
        out = attend(tensors, case)
        found = gradients(out, tensors)
    assert out.shape == (0, 6, 6, 1, 4)
    given = [x for x in tensors if x is not None]
    assert all(g.shape == x.shape and not g.any() for g, x in zip(found, given, strict=True))


def test_flops_count_pairs_inside_windows():
    case = ((2, 10, 9, 2, 5, 7), (4, 3), 0, False, False)
    tensors = make(case)
    with FlopCounterMode(display=False) as counter:
        attend(tensors, case)
    assert counter.get_total_flops() == 2 * 2 * (12 * 9) * 12 * 2 * (5 + 7)


def test_large_windows_fall_back_and_say_so():
    case = ((1, 40, 40, 1, 4, 4), None, 0, False, False)
    tensors = make(case)
    assert attend(tensors, case).isfinite().all()
    said = ops.explain("window_attention", *tensors[:3], (None, None))
    assert "windows of up to 1024 cells, and got 40x40" in said or "was not built" in said


def test_triton_off_a_gpu_is_refused():
    x = torch.randn(1, 6, 6, 1, 4)
    for tensor in (x, x.to("meta")):
        with (
            ops.use_backend("triton"),
            pytest.raises(RuntimeError, match="triton backend: it computes on CUDA and ROCm"),
        ):
            ops.window_attention(tensor, tensor, tensor, 3)


def test_off_the_cpu_the_compiler_sees_the_portable_form():
    x = torch.randn(1, 6, 6, 1, 4, device="meta", requires_grad=True)
    graphs = []

    def keep(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph

    compiled = torch.compile(
        lambda x: ops.window_attention(x, x, x, 3, 1), fullgraph=True, backend=keep
    )
    assert compiled(x).shape == x.shape
    assert len(graphs) == 1
    assert "scaled_dot_product_attention" in str(graphs[0])
    assert "foveate" not in str(graphs[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift_size": 7}, "shift_size must be less than a window's"),
        ({"shift_size": 1, "spread": True}, "spread windows cannot be shifted"),
        ({"bias": torch.zeros(1, 4, 4)}, r"\(1, 9, 9\) for windows of 3x3, got \(1, 4, 4\)"),
        ({"bias": torch.zeros(1, 9, 9, dtype=torch.long)}, "floating dtype"),
        ({"dropout_p": 1.5}, "dropout_p"),
    ],
)
def test_what_is_refused(options, message):
    x = torch.randn(1, 6, 6, 1, 4)
    with pytest.raises(ValueError, match=message):
        ops.window_attention(x, x, x, 3, **options)


@pytest.mark.parametrize("window_size", [0, -1, (-2, 3), (3,), (3, 3, 3), True, (None, 2.0)])
def test_sizes_that_are_none_are_refused(window_size):
    x = torch.randn(1, 6, 6, 1, 4)
    with pytest.raises(ValueError, match="window_size must be"):
        ops.window_attention(x, x, x, window_size)


def test_a_bias_that_is_no_tensor_is_refused():
    x = torch.randn(1, 6, 6, 1, 4)
    for attend in (ops.window_attention, ops.local_attention):
        with pytest.raises(TypeError, match=r"bias must be a torch\.Tensor, got float"):
            attend(x, x, x, 3, bias=0.5)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
def test_a_bias_that_hides_every_key_gives_zero(backend, dropout_p):
    q, k, v = torch.randn(3, 1, 6, 7, 2, 4).requires_grad_()
    bias = torch.zeros(2, 9, 9)
    bias[:, 4] = float("-inf")  # nothing for the query in the middle of a window
    with ops.use_backend(backend):
        out = ops.window_attention(q, k, v, 3, bias=bias, dropout_p=dropout_p)
        grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert (out[0, 1, [1, 4]] == 0).all()
    assert all(x.isfinite().all() for x in (out, *grads))


@needs_native
def test_compiled_whole():
    case = CASES[1]
    tensors = make(case)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(*tensors):
        return attend(tensors, case)

    out, expected = run(*tensors), attend(tensors, case)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)
