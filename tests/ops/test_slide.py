from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate import ops
from foveate.ops.native import library
from foveate.ops.slide import native, reference
from tests.ops.memory_layouts import LAYOUTS

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())

# batch, height, width, heads, channels of keys, of values, kernel
SIZES = [
    (2, 5, 7, 2, 6, 6, (3, 3)),
    (1, 1, 1, 1, 1, 2, (3, 3)),
    (2, 1, 9, 2, 4, 4, (3, 3)),
    (1, 9, 1, 1, 16, 5, (3, 3)),
    (1, 4, 6, 2, 8, 3, (1, 1)),
    (2, 6, 5, 1, 3, 8, (2, 2)),
    (1, 7, 6, 2, 5, 4, (5, 3)),
    (1, 5, 8, 1, 4, 4, (3, 5)),
    (1, 3, 6, 1, 4, 4, (4, 3)),
    (1, 6, 6, 2, 7, 7, (5, 5)),
    (1, 4, 5, 1, 4, 6, (7, 7)),
    (1, 11, 10, 3, 32, 32, (3, 3)),
    (1, 70, 2, 1, 2, 2, (67, 1)),
]


def make(size, dtype=torch.float32, shared_bias=False, requires_grad=True):
    batch, height, width, heads, dim, value_dim, kernel = size
    taps = kernel[0] * kernel[1]
    qk = torch.randn(batch, height, width, 2, heads, dim, dtype=dtype)
    v = torch.randn(batch, height, width, heads, value_dim + 3, dtype=dtype)[..., 1:-2]
    bias_heads = 1 if shared_bias else heads
    tensors = [
        *qk.unbind(3),
        v,
        0.4 * torch.randn(taps, taps, dim, dtype=dtype),
        torch.randn(bias_heads, taps, dim, dtype=dtype),
        0.4 * torch.randn(taps, taps, value_dim, dtype=dtype),
        torch.randn(1, taps, value_dim, dtype=dtype),
    ]
    return [x.detach().requires_grad_(requires_grad) for x in tensors]


def gradients(out, tensors, seed=1):
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)
    return torch.autograd.grad(out, tensors, grad)


def assert_near(ours, expected, tolerance):
    """Within ``tolerance`` of the largest value."""
    assert ours.shape == expected.shape
    largest = expected.abs().max().clamp_min(1e-6).item() if expected.numel() else 1.0
    torch.testing.assert_close(
        ours.double(), expected.double(), rtol=0, atol=tolerance * largest
    )  # fmt: skip


def assert_same(size, run, tolerance, dtype=torch.float32, **options):
    tensors = make(size, dtype, **options)
    precise = [x.detach().double().requires_grad_() for x in tensors]
    out = run(*tensors, size[-1])
    expected = reference.slide_attention(*precise, size[-1])
    assert out.dtype is dtype
    assert_near(out, expected, tolerance)
    found, wanted = gradients(out, tensors), gradients(expected, precise)
    for ours, theirs, x in zip(found, wanted, tensors, strict=True):
        assert ours.dtype is x.dtype
        assert_near(ours, theirs, tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_portable_is_the_definition(size):
    with ops.use_backend("portable"):
        assert_same(size, ops.slide_attention, 1e-12, torch.float64)


@needs_native
@pytest.mark.parametrize("shared_bias", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_is_the_definition(size, shared_bias, poisoned_memory):
    with ops.use_backend("native"):
        assert_same(size, ops.slide_attention, 3e-6, shared_bias=shared_bias)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
def test_every_instruction_set_is_right(isa, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for size in (SIZES[0], SIZES[6], SIZES[9], (1, 12, 9, 1, 32, 24, (3, 3))):
        assert_same(size, ops.slide_attention, 3e-6)


@needs_native
@pytest.mark.parametrize(
    "size",
    [
        (1, 90, 11, 1, 64, 64, (3, 3)),  # several blocks of rows
        (1, 9, 300, 1, 4, 4, (3, 3)),  # of columns
        (1, 40, 280, 1, 16, 8, (5, 5)),  # of both
        (2, 60, 130, 1, 8, 8, (2, 3)),
    ],
    ids=str,
)
def test_native_blocks_meet(size, two_threads):
    tensors = make(size)
    precise = [x.detach().double().requires_grad_() for x in tensors]
    out = ops.slide_attention(*tensors, size[-1])
    expected = ops.slide_attention(*precise, size[-1])
    assert_near(out, expected, 3e-6)
    found = gradients(out, tensors)
    for ours, theirs in zip(found, gradients(expected, precise), strict=True):
        assert_near(ours, theirs, 1e-5)
    again = ops.slide_attention(*tensors, size[-1])
    assert torch.equal(again, out)
    assert all(map(torch.equal, gradients(again, tensors), found))


@needs_native
def test_threads_change_no_map():
    tensors = make((2, 13, 18, 1, 8, 8, (5, 3)))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 40):
            torch.set_num_threads(threads)
            out = ops.slide_attention(*tensors, (5, 3))
            results.append([out, *gradients(out, tensors)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0][:4], other[:4]))
        for ours, theirs in zip(results[0][4:], other[4:], strict=True):
            assert_near(ours, theirs, 1e-5)


def assert_like_its_copy(maps, weights):
    """Views give what their copies give, and so do their gradients."""
    results = []
    for given in (maps, [x.clone() for x in maps]):
        leaves = [x.detach().requires_grad_() for x in given]
        out = ops.slide_attention(*leaves, *weights, 3)
        results.append([out, *gradients(out, leaves)])
    assert all(map(torch.equal, *results))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_between_the_addresses_of_their_type(dtype):
    size = (2, 3, 4, 2, 17)
    maps = []
    for x in make((*size, 17, (3, 3)), requires_grad=False)[:3]:
        memory = bytearray(x.numel() * dtype.itemsize + 1)
        maps.append(torch.frombuffer(memory, dtype=dtype, offset=1).view(size).copy_(x))
    assert all(x.data_ptr() % dtype.itemsize for x in maps)
    assert_like_its_copy(maps, make((*size, 17, (3, 3)), requires_grad=False)[3:])


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="reserves memory without using it")
def test_rows_further_apart_than_32_bits_count():
    without_reserve = 0x4000
    memory = mmap.mmap(-1, 13 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | without_reserve)
    everything = torch.frombuffer(memory, dtype=torch.float32)
    wide = everything.as_strided((1, 3, 4, 3, 2, 16), (0, 3 << 29, 96, 32, 16, 1))
    wide.copy_(torch.randn(wide.shape))
    weights = make((1, 3, 4, 2, 16, 16, (3, 3)), requires_grad=False)[3:]
    assert_like_its_copy(wide.unbind(3), weights)


@needs_native
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_any_strides(lay):
    size = (2, 6, 7, 2, 8, 8, (3, 3))
    tensors = make(size, requires_grad=False)

    maps = [lay(x) for x in tensors[:3]]
    plain = [x.contiguous() for x in maps]
    out = ops.slide_attention(*maps, *tensors[3:], 3)
    assert torch.equal(out, ops.slide_attention(*plain, *tensors[3:], 3))

    leaves = [x.requires_grad_() for x in plain]
    grad = lay(torch.randn(out.shape))
    found = [
        torch.autograd.grad(ops.slide_attention(*leaves, *tensors[3:], 3), leaves, g)
        for g in (grad, grad.contiguous())
    ]
    assert all(map(torch.equal, *found))


def test_gradients_by_finite_differences():
    for size in ((1, 3, 4, 2, 3, 2, (3, 3)), (2, 2, 3, 1, 2, 2, (2, 1))):
        tensors = make(size, torch.float64)

        def run(*tensors, kernel=size[-1]):
            return ops.slide_attention(*tensors, kernel)

        torch.autograd.gradcheck(run, tensors)
    torch.autograd.gradgradcheck(run, tensors)


@needs_native
def test_second_derivatives_through_the_compiled_forward():
    tensors = make((1, 3, 4, 1, 4, 4, (3, 3)))
    out = ops.slide_attention(*tensors, 3)
    (first,) = torch.autograd.grad(out.square().sum(), tensors[0], create_graph=True)
    second = torch.autograd.grad(first.square().sum(), tensors)
    precise = [x.detach().double().requires_grad_() for x in tensors]
    out = ops.slide_attention(*precise, 3)
    (first,) = torch.autograd.grad(out.square().sum(), precise[0], create_graph=True)
    for ours, theirs in zip(
        second, torch.autograd.grad(first.square().sum(), precise), strict=True
    ):
        assert_near(ours, theirs, 1e-4)


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (3,), (4, 6)])
def test_only_the_gradients_asked_for(wanted):
    tensors = make(SIZES[0], requires_grad=False)
    leaves = [x.clone().requires_grad_() for x in tensors]
    full = gradients(ops.slide_attention(*leaves, 3), leaves)
    some = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(tensors)]
    found = gradients(ops.slide_attention(*some, 3), [some[i] for i in wanted])
    for i, grad in zip(wanted, found, strict=True):
        assert torch.equal(grad, full[i])


def test_identity_kernels_give_plain_local_attention():
    q, k, v = (torch.randn(2, 6, 7, 2, 8) for _ in range(3))
    shift = torch.eye(9)[..., None].expand(9, 9, 8)
    none = torch.zeros(1, 9, 8)
    out = ops.slide_attention(q, k, v, shift, none, shift, none, 3)
    expected = ops.local_attention(q, k, v, 3, border="zero")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["native", "portable"])
def test_half_precision(dtype, backend):
    tensors = [x.detach().to(dtype).requires_grad_() for x in make((2, 6, 7, 2, 8, 40, (3, 3)))]
    precise = [x.detach().double().requires_grad_() for x in tensors]
    expected = ops.slide_attention(*precise, 3)
    with ops.use_backend(backend):
        out = ops.slide_attention(*tensors, 3)
        found = gradients(out, tensors)
    assert out.dtype is dtype
    tolerance = 0.05 if dtype is torch.bfloat16 else 0.01
    assert_near(out, expected, tolerance)
    for ours, theirs in zip(found, gradients(expected, precise), strict=True):
        assert ours.dtype is dtype
        assert_near(ours, theirs, 2 * tolerance)


def test_autocast_takes_maps_and_leaves_weights():
    tensors = make((1, 4, 5, 2, 8, 8, (3, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.slide_attention(*tensors, 3)
    assert out.dtype is torch.bfloat16
    assert_near(out, ops.slide_attention(*tensors, 3), 0.03)
    assert {grad.dtype for grad in gradients(out, tensors)} == {torch.float32}


@needs_native
def test_dropout_is_the_same_by_every_backend():
    tensors = make((2, 5, 20, 2, 6, 4, (3, 3)))
    results = []
    for backend in ("native", "portable"):
        torch.manual_seed(3)
        with ops.use_backend(backend):
            out = ops.slide_attention(*tensors, 3, dropout_p=0.3)
            results.append((out, *gradients(out, tensors)))
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs, 1e-5)
    assert not torch.allclose(results[0][0], ops.slide_attention(*tensors, 3))


def test_dropout_keeps_the_mean():
    tensors = make((1, 4, 4, 1, 4, 4, (3, 3)), requires_grad=False)
    runs = [ops.slide_attention(*tensors, 3, dropout_p=0.5) for _ in range(3000)]
    assert_near(torch.stack(runs).mean(0), ops.slide_attention(*tensors, 3), 0.1)


@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
def test_empty_batch(backend):
    tensors = make((0, 4, 5, 2, 3, 3, (3, 3)))
    with ops.use_backend(backend):
        out = ops.slide_attention(*tensors, 3)
        found = gradients(out, tensors)
    assert out.shape == (0, 4, 5, 2, 3)
    assert all(
        grad.shape == x.shape and not grad.any() for grad, x in zip(found, tensors, strict=True)
    )


def test_nan_and_infinity_are_not_hidden():
    tensors = make((1, 5, 5, 1, 4, 4, (3, 3)), requires_grad=False)
    tensors[1][0, 2, 2, 0, 1] = float("nan")
    out = ops.slide_attention(*tensors, 3)
    assert out[0, 1:4, 1:4].isnan().all()
    assert out[0, 0].isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_operator_obeys_pytorch(training):
    tensors = make((2, 3, 4, 2, 4, 3, (3, 3)))
    slide = torch.ops.foveate.slide_attention.default
    torch.library.opcheck(slide, (*tensors, [3, 3], 0.5, 0.0, None, False, training))
    plain = [x.detach() for x in tensors]
    seed = torch.tensor(5)
    out, kept = slide(*plain, [3, 3], 0.5, 0.1, seed, False, True)
    for parameter_grads in (False, True):
        torch.library.opcheck(
            torch.ops.foveate.slide_attention_backward.default,
            (
                torch.ones_like(out),
                None,
                None,
                kept,
                parameter_grads,
                *plain,
                [3, 3],
                0.5,
                0.1,
                seed,
            ),
        )


def test_compiles_without_breaks_for_any_size():
    torch._dynamo.reset()

    def run(*tensors):
        return 2 * ops.slide_attention(*tensors, 3)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5, 6, 2, 4, 4, (3, 3)), (3, 4, 9, 2, 4, 4, (3, 3))):
        tensors = make(size)
        out, expected = compiled(*tensors), run(*tensors)
        torch.testing.assert_close(out, expected)
        for ours, theirs in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_exports_in_plain_operators():
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return ops.slide_attention(*tensors, 3)

    tensors = tuple(make((2, 5, 6, 2, 4, 4, (3, 3)), requires_grad=False))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("h"), 2: torch.export.Dim("w")}
    program = torch.export.export(
        Module(), tensors, dynamic_shapes={"tensors": (sizes,) * 3 + (None,) * 4}
    )
    assert "foveate" not in program.graph_module.code
    others = tuple(make((1, 7, 3, 2, 4, 4, (3, 3)), requires_grad=False))
    torch.testing.assert_close(
        program.module()(*others), ops.slide_attention(*others, 3), rtol=1e-4, atol=1e-5
    )


def test_function_transforms():
    tensors = make((1, 4, 5, 1, 4, 4, (3, 3)), requires_grad=False)

    def loss(q):
        return ops.slide_attention(q, *tensors[1:], 3).square().sum()

    expected = tensors[0].clone().requires_grad_()
    torch.testing.assert_close(
        torch.func.grad(loss)(tensors[0]), torch.autograd.grad(loss(expected), expected)[0]
    )


@pytest.mark.parametrize("backend", ["native", "portable"])
def test_flops_are_counted_by_the_meaning(backend):
    if backend == "native" and not library.available():
        pytest.skip(library.why_not())
    batch, height, width, heads, dim, value_dim, kernel = size = (2, 4, 5, 3, 8, 6, (3, 3))
    taps = 9
    channels = batch * height * width * heads * taps * (dim + value_dim)
    tensors = make(size)
    with ops.use_backend(backend):
        with FlopCounterMode(display=False) as counter:
            out = ops.slide_attention(*tensors, kernel)
        assert counter.get_total_flops() == 2 * channels * (taps + 1)
        with FlopCounterMode(display=False) as counter:
            gradients(out, tensors)
        assert counter.get_total_flops() == 4 * channels * (taps + 1)


@needs_native
def test_fewer_threads_than_asked_for_leave_nothing_out():
    """The system may grant fewer; freed memory full of NaN would show what they do not write."""
    code = """
import torch
from foveate import ops
torch.set_num_threads(4)
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 8, 8, 1, 16)
weights = [torch.randn(s).requires_grad_() for s in ((9, 9, 16), (1, 9, 16)) * 2]
for _ in range(5):
    del [torch.full((n,), float("nan")) for n in (1 << 12, 1 << 14, 1 << 16, 1 << 18)][:]
    grads = torch.autograd.grad(ops.slide_attention(q, k, v, *weights, 3).sin().sum(), weights)
    with ops.use_backend("portable"):
        want = torch.autograd.grad(ops.slide_attention(q, k, v, *weights, 3).sin().sum(), weights)
    torch.testing.assert_close(grads, want, rtol=1e-3, atol=1e-4)
"""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_explain_says_which_and_why():
    tensors = make(SIZES[0], requires_grad=False)
    if library.available():
        assert "runs by the native backend" in ops.explain("slide_attention", *tensors, 3)
    doubles = [x.double() for x in tensors]
    words = ops.explain("slide_attention", *doubles, kernel_size=3, dropout_p=0.1)
    assert "runs by the portable backend" in words
    assert "float64" in words


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's malloc")
def test_native_reads_no_memory_it_has_not_written():
    """Its scratch memory is filled with huge numbers before use."""
    mallopt, perturb = ctypes.CDLL(None).mallopt, -6  # M_PERTURB

    def results():
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 4, 5, 2, 4, requires_grad=True) for _ in range(3))
        w, b = torch.randn(9, 9, 4, requires_grad=True), torch.randn(1, 9, 4)
        y = ops.slide_attention(q, k, v, w, b, w, b, 3)
        y.sum().backward()
        return [y.detach(), q.grad, k.grad, v.grad, w.grad]

    expected = results()
    assert mallopt(perturb, 129) == 1
    try:
        actual = results()
    finally:
        mallopt(perturb, 0)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: lambda x: x[0]}, r"q must be \(B, H, W, heads, D\)"),
        ({0: lambda x: x.long()}, "floating"),
        ({1: lambda x: x[:, :3]}, "same shape"),
        ({2: lambda x: x[:, :, :2]}, r"agree in \(B, H, W, heads\)"),
        ({1: lambda x: x.half()}, "share one dtype"),
        ({i: lambda x: x[:, :0] for i in range(3)}, "at least 1"),
        ({3: lambda x: x[:4]}, r"key_weight must be \(N, taps, D\) = \(9, 9, 6\)"),
        ({5: lambda x: x[..., :4]}, "value_weight must be"),
        ({4: lambda x: x[:1, :3]}, r"key_bias must be \(heads or 1, N, D\)"),
        ({6: lambda x: x.expand(3, -1, -1)}, "value_bias must be"),
        ({6: lambda x: x.double()}, "value_bias must be torch.float32"),
        ({2: lambda x: x.to("meta")}, "v is on meta, q on cpu"),
        ({5: lambda x: x.to("meta")}, "value_weight is on meta, q on cpu"),
    ],
)
def test_mistakes_are_refused(change, words):
    tensors = make((1, 4, 5, 2, 6, 6, (3, 3)), requires_grad=False)
    for place, alter in change.items():
        tensors[place] = alter(tensors[place])
    with pytest.raises(ValueError, match=words):
        ops.slide_attention(*tensors, 3)


def test_wrong_options_are_refused():
    tensors = make((1, 4, 5, 2, 6, 6, (3, 3)), requires_grad=False)
    with pytest.raises(ValueError, match="kernel_size must be"):
        ops.slide_attention(*tensors, 0)
    with pytest.raises(ValueError, match="dropout_p"):
        ops.slide_attention(*tensors, 3, dropout_p=1.0)
    with pytest.raises(TypeError, match=r"key_bias must be a torch\.Tensor"):
        ops.slide_attention(*tensors[:4], None, *tensors[5:], 3)
