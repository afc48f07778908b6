"""Local attention against its definition, backend by backend."""

from __future__ import annotations

import mmap
import random
import sys

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch.utils.flop_counter import FlopCounterMode

from foveate.ops import explain, local_attention, use_backend
from foveate.ops.local import reference
from foveate.ops.native import library

BORDERS = ("shift", "zero", "mask", "reflect")
needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not() or "built")
backends = pytest.mark.parametrize(
    "backend", ["portable", pytest.param("native", marks=needs_native)]
)


def maps(size, *, heads=2, dim=4, value_dim=None, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dims = (dim, dim, value_dim or dim)
    return [torch.randn(*size, heads, d, generator=generator).to(dtype) for d in dims]


def random_case(border, seed):
    """A random call: q, k, v and keyword arguments; sizes small, odd, and not square."""
    pick = random.Random(f"{border} {seed}")
    kernel = pick.randint(1, 6), pick.randint(1, 6)
    dilation = pick.randint(1, 3), pick.randint(1, 3)
    if border in ("zero", "mask"):
        height, width = pick.randint(1, 7), pick.randint(1, 11)
    else:
        height = kernel[0] * dilation[0] + pick.randint(0, 3)
        width = kernel[1] * dilation[1] + pick.randint(0, 5)
    batch, heads = pick.randint(1, 2), pick.randint(1, 2)
    dim, value_dim = pick.choice([3, 8]), pick.choice([5, 8])
    size = (batch, height, width)
    q, k, v = maps(size, heads=heads, dim=dim, value_dim=value_dim, seed=seed)
    biases = [
        None,
        torch.randn(heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1),
        torch.randn(*size, heads, *kernel),
    ]
    key_mask = pick.choice([None, torch.rand(size) > 0.6])
    return [q, k, v], {
        "kernel_size": kernel,
        "dilation": dilation,
        "bias": pick.choice(biases),
        "scale": pick.choice([None, 0.7]),
        "border": border,
        "key_mask": key_mask,
    }


def poison():
    """Freed memory full of NaN, for the next allocations to find."""
    for size in (64, 1024, 16384, 65536, 262144):
        del [torch.full((size,), float("nan")) for _ in range(4)][:]


@backends
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition(backend, border, seed):
    (q, k, v), options = random_case(border, seed)
    want, want_lse = reference.local_attention(q, k, v, **options)
    poison()
    with use_backend(backend):
        out, lse = local_attention(q, k, v, **options, return_lse=True)
    torch.testing.assert_close(out, want.float(), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(lse, want_lse.float(), rtol=2e-5, atol=2e-5)


@pytest.fixture
def without_kernels(monkeypatch):
    """A machine that cannot compile: training too may do without the log-sum-exp."""
    monkeypatch.setattr(library, "why_not", lambda: "there is no compiler")


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(8))
def test_output_alone_equals_the_definition(border, seed, without_kernels):
    inputs, options = random_case(border, 200 + seed)
    inputs = [x.requires_grad_() for x in inputs]
    bias = options["bias"]
    wanted = inputs if bias is None else [*inputs, bias.requires_grad_()]
    want = reference.local_attention(*inputs, **options)[0]
    poison()
    out = local_attention(*inputs, **options)
    torch.testing.assert_close(out, want.float(), rtol=2e-5, atol=2e-5)
    wave = torch.sin(torch.arange(out.numel())).view_as(out)
    got = torch.autograd.grad((out * wave).sum(), wanted)
    theirs = torch.autograd.grad((want * wave).sum(), wanted)
    torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-4)


def test_output_alone_of_maps_of_many_tiles(without_kernels):
    inputs = [x.requires_grad_() for x in maps((2, 27, 43), dim=16, value_dim=8)]
    table = torch.randn(2, 13, 9, requires_grad=True)
    mask = torch.rand(2, 27, 43) > 0.5
    for options in ({}, {"bias": table}, {"key_mask": mask}, {"bias": table, "key_mask": mask}):
        wanted = [*inputs, table] if "bias" in options else inputs
        outs = [
            local_attention(*inputs, (7, 5), (2, 3), **options),
            local_attention(*inputs, (7, 5), (2, 3), **options, return_lse=True)[0],
        ]
        torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
        grads = [torch.autograd.grad(out.sin().sum(), wanted) for out in outs]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
def test_masked_keys_may_hold_anything(backend, border):
    q, k, v = maps((1, 9, 9))
    mask = torch.rand(1, 9, 9) > 0.4

    def results() -> list[torch.Tensor]:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        with use_backend(backend):
            out = local_attention(*leaves, 5, key_mask=mask, border=border)
            return [out, *torch.autograd.grad(out.sin().sum(), leaves)]

    want = results()
    for x in (k, v):
        x[~mask] = float("nan")
    torch.testing.assert_close(results(), want)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
def test_what_is_no_number_reaches_those_who_see_it(backend, border, number):
    """And no one else: neither their outputs nor the gradients of their queries."""
    q, k, v = maps((1, 12, 13))
    dilation = (1, 2)
    counted = torch.zeros(1, 12, 13, 1, 1)
    counted[0, 3, 4] = 1
    zeros = torch.zeros_like(counted)
    sees = reference.local_attention(zeros, zeros, counted, (3, 3), dilation, border=border)[0] > 0
    sees = sees[..., 0, 0].squeeze(0)

    def results() -> list[torch.Tensor]:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        with use_backend(backend):
            alone = local_attention(q, k, v, 3, dilation, border=border)
            out = local_attention(*leaves, 3, dilation, border=border)
            return [alone, out, torch.autograd.grad(out[0][~sees].sin().sum(), leaves[0])[0]]

    want = results()
    for x in (k, v):
        kept = x[0, 3, 4].clone()
        x[0, 3, 4] = number
        for result, expected in zip(results(), want, strict=True):
            torch.testing.assert_close(result[0][~sees], expected[0][~sees])
        if number != number:
            assert all(out[0][sees].isnan().any(-1).all() for out in results()[:2])
        x[0, 3, 4] = kept


@pytest.mark.parametrize("backend", [*["native"] * library.available(), "portable"])
@pytest.mark.parametrize("return_lse", [False, True])
def test_a_bias_that_hides_every_key_gives_zero(backend, return_lse):
    q, k, v = maps((1, 6, 7))
    table = torch.full((q.shape[3], 3, 3), float("-inf"))
    with use_backend(backend):
        out = local_attention(q, k, v, (2, 2), bias=table, border="mask", return_lse=return_lse)
    out, lse = out if return_lse else (out, None)
    assert (out == 0).all()
    assert lse is None or (lse == float("-inf")).all()


def test_a_nan_shows_in_the_log_sum_exp():
    q, k, v = maps((1, 5, 5))
    q[0, 2, 2] = float("nan")
    lse = local_attention(q.double(), k.double(), v.double(), 3, return_lse=True)[1]
    assert lse[0, 2, 2].isnan().all()
    assert lse[0, 0].isfinite().all()


def test_what_is_kept_may_come_back_in_other_strides():
    leaves = [x.requires_grad_() for x in maps((2, 5, 6))]
    want = torch.autograd.grad(local_attention(*leaves, 3).sin().sum(), leaves)

    def otherwise(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, -1).contiguous().transpose(0, -1) if x.is_floating_point() else x

    with torch.autograd.graph.saved_tensors_hooks(otherwise, lambda x: x):
        out = local_attention(*leaves, 3)
    torch.testing.assert_close(torch.autograd.grad(out.sin().sum(), leaves), want)


def test_second_derivatives_of_the_output_alone(without_kernels):
    q, k, v = (x.requires_grad_() for x in maps((1, 5, 6)))

    def penalty(dtype):
        inputs = [x.to(dtype) for x in (q, k, v)]
        out = local_attention(*inputs, 3)
        (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (q, k, v))

    torch.testing.assert_close(penalty(torch.float32), penalty(torch.float64), rtol=1e-3, atol=1e-3)


def gradients(backend, dtype, tensors, options, dropout_seed=None):
    tensors = [x.to(dtype).requires_grad_() for x in tensors]
    bias = options["bias"]
    if bias is not None:
        bias = bias.to(dtype).requires_grad_()
    with use_backend(backend):
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        out, lse = local_attention(*tensors, **{**options, "bias": bias}, return_lse=True)
        wave = torch.sin(torch.arange(out.numel())).view_as(out).to(dtype)
        loss = (out * wave).sum() + lse.masked_fill(lse.isinf(), 0).square().sum()
        wanted = tensors if bias is None else [*tensors, bias]
        return out.detach(), *torch.autograd.grad(loss, wanted)


@needs_native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(10))
def test_native_gradients_equal_portable_ones(border, seed):
    tensors, options = random_case(border, 100 + seed)
    dropout = seed % 3 == 0
    options["dropout_p"] = 0.3 if dropout else 0.0
    want = gradients("portable", torch.float64, tensors, options, seed if dropout else None)
    poison()
    got = gradients("native", torch.float32, tensors, options, seed if dropout else None)
    for ours, theirs in zip(got, want, strict=True):
        size = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4 * size)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(200))
def test_native_sweep(border, seed):
    test_native_gradients_equal_portable_ones(border, 1000 + seed)


@needs_native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kernel", [7, (9, 4), 13])
def test_native_on_wide_maps(border, kernel):
    tensors = maps((1, 27, 43), heads=1, dim=16)
    options = {"kernel_size": kernel, "border": border, "bias": None}
    want = gradients("portable", torch.float64, tensors, options)
    for ours, theirs in zip(
        gradients("native", torch.float32, tensors, options), want, strict=True
    ):
        size = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4 * size)


@pytest.fixture(params=library.instruction_sets() if library.available() else [])
def instruction_set(request, monkeypatch):
    """Each instruction set that this machine has."""
    monkeypatch.setattr(library, "instruction_set", lambda: request.param)
    library.kernel.cache_clear()
    yield request.param
    library.kernel.cache_clear()


@needs_native
def test_a_call_that_nothing_watches_equals_one_that_is_recorded():
    q, k, v = maps((2, 9, 8))
    with torch.no_grad():
        direct = local_attention(q, k, v, 3)
        with torch.profiler.profile() as record:
            recorded = local_attention(q, k, v, 3)
    assert torch.equal(direct, recorded)
    assert "foveate::local_attention" in {event.name for event in record.events()}
    assert torch.equal(direct, local_attention(q.requires_grad_(), k, v, 3))


@needs_native
def test_tensors_that_do_not_lie_in_memory_as_they_are():
    q, k, v = maps((2, 9, 8))
    negated = torch.complex(torch.zeros_like(q), -q).conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(local_attention(negated, k, v, 3), local_attention(q, k, v, 3))
    assert local_attention(*(x.to("meta") for x in (q, k, v)), 3).is_meta


@needs_native
def test_calls_alike_but_for_strides_dtypes_or_numbers():
    q, k, v = maps((2, 9, 8))
    want = local_attention(q, k, v, 3)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(local_attention(*turned, 3), want)
    assert torch.equal(local_attention(q.clone(), k.clone(), v.clone(), 3), want)
    half = local_attention(*(x.bfloat16() for x in (q, k, v)), 3)
    torch.testing.assert_close(half.float(), want, rtol=0.1, atol=0.1)
    torch.testing.assert_close(
        local_attention(q, k, v, 3, scale=0.3), local_attention(q * 0.6, k, v, 3, scale=0.5)
    )


def test_every_instruction_set(instruction_set):
    for border in BORDERS:
        test_native_gradients_equal_portable_ones(border, 7)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_portable_gradients_equal_finite_differences(border, seed):
    tensors, options = random_case(border, seed)
    tensors = [x[:1, :, :, :1, :3] for x in tensors]
    bias = options.pop("bias")
    if bias is not None:
        bias = bias[:1].double() if bias.dim() == 3 else bias[:1, :, :, :1].double()
    if options["key_mask"] is not None:
        options["key_mask"] = options["key_mask"][:1]
    tensors = [x.double().requires_grad_() for x in tensors]

    def call(q, k, v):
        return local_attention(q, k, v, bias=bias, **options)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


def test_second_derivatives():
    tensors = [x.requires_grad_() for x in maps((1, 4, 3), heads=1, dim=2, dtype=torch.float64)]
    assert torch.autograd.gradgradcheck(lambda q, k, v: local_attention(q, k, v, 3), tensors)


@backends
def test_lse_alone_can_be_differentiated(backend):
    q, k, v = (x.requires_grad_() for x in maps((1, 6, 7)))
    with use_backend(backend):
        lse = local_attention(q, k, v, 3, return_lse=True)[1]
        dq, dk = torch.autograd.grad(lse.sum(), (q, k))
    want = reference.local_attention(q, k, v, (3, 3))[1]
    want_q, want_k = torch.autograd.grad(want.sum(), (q, k))
    torch.testing.assert_close((dq, dk), (want_q, want_k), rtol=1e-4, atol=1e-5)


@backends
def test_strided_views_expanded_and_misaligned_inputs(backend):
    qkv = torch.randn(2, 9, 11, 3, 2, 8)
    views = qkv.unbind(3)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in views]
    channels_apart = [x.movedim(-1, 1).contiguous().movedim(1, -1) for x in views]
    memory = torch.randn(qkv.numel() + 1)
    shifted = memory[1:].view_as(qkv).copy_(qkv).unbind(3)
    with use_backend(backend):
        want = local_attention(*(x.clone() for x in views), 5)
        for given in (views, turned, channels_apart, shifted):
            torch.testing.assert_close(local_attention(*given, 5), want)
        one = [x[:1, :1, :1].expand(2, 9, 11, 2, 8) for x in views]
        torch.testing.assert_close(
            local_attention(*one, 5), one[2].contiguous(), rtol=1e-5, atol=1e-5
        )
        leaf = views[0].detach()[:, :, :, :1].requires_grad_()
        local_attention(leaf.expand(2, 9, 11, 2, 8), views[1], views[2], 5).sum().backward()
        assert leaf.grad.shape == leaf.shape


@backends
@pytest.mark.parametrize("border", BORDERS)
def test_empty_batch_and_smallest_map(backend, border):
    with use_backend(backend):
        q, k, v = (x.requires_grad_() for x in maps((0, 5, 6)))
        out = local_attention(q, k, v, 3, border=border)
        out.sum().backward()
        assert out.shape == (0, 5, 6, 2, 4)
        assert q.grad.shape == q.shape
        q, k, v = maps((2, 1, 1))
        kernel = 1 if border in ("shift", "reflect") else 3
        out = local_attention(q, k, v, kernel, border=border)
        if border != "zero":
            torch.testing.assert_close(out, v)


@backends
@pytest.mark.parametrize("with_lse", [False, True])
def test_a_query_without_keys_gets_zero(backend, with_lse, request):
    if backend == "portable":
        request.getfixturevalue("without_kernels")
    q, k, v = (x.requires_grad_() for x in maps((1, 6, 10)))
    with use_backend(backend):
        mask = torch.zeros(1, 6, 10, dtype=torch.bool)
        mask[:, :, 8:] = True
        result = local_attention(q, k, v, 3, key_mask=mask, border="mask", return_lse=with_lse)
        out, lse = result if with_lse else (result, None)
        out.sum().backward()
    assert not out[:, :, :7].any()
    if with_lse:
        assert (lse[:, :, :7] == -torch.inf).all()
        assert lse[:, :, 8:].isfinite().all()
    for grad in (q.grad, k.grad, v.grad):
        assert grad.isfinite().all()


@backends
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_under_shift_every_query_sees_itself_and_as_many_as_the_others(backend, dilation):
    height, width = 10, 13
    count = height * width
    q, k, _ = maps((1, height, width), heads=1, dim=2)
    v = torch.eye(count).view(1, height, width, 1, count)
    with use_backend(backend):
        weights = local_attention(q, k, v, 3, dilation).view(count, count)
    assert ((weights > 0).sum(-1) == 9).all()
    assert (weights.diagonal() > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(count))


@needs_native
@pytest.mark.parametrize("bias", [False, True])
def test_threads_change_nothing(bias):
    tensors = maps((1, 23, 18), heads=1, dim=8)
    options = {"kernel_size": 5, "bias": torch.randn(1, 9, 9) if bias else None}
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(gradients("native", torch.float32, tensors, options))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for i, (a, b) in enumerate(zip(results[0], other, strict=True)):
            if i < 4:
                assert torch.equal(a, b)
            else:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(backend, dtype):
    q, k, v = (x.to(dtype).requires_grad_() for x in maps((2, 8, 9), dim=8))
    with use_backend(backend):
        out, lse = local_attention(q, k, v, 3, return_lse=True)
        out.float().square().sum().backward()
    want = reference.local_attention(q, k, v, (3, 3))[0]
    assert out.dtype is q.grad.dtype is dtype
    assert lse.dtype is torch.float32
    torch.testing.assert_close(out.double(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_native_reads_and_writes_every_half_precision_number(instruction_set, dtype):
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 32, 64, 2, 16)
    zeros = torch.zeros(1, 32, 64, 2, 3, dtype=dtype)
    with use_backend("native"):
        out = local_attention(zeros, zeros, numbers, 1)
    torch.testing.assert_close(out, numbers, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("border", BORDERS)
def test_native_half_precision_gradients(instruction_set, dtype, border):
    for seed in (3, 6):
        tensors, options = random_case(border, 300 + seed)
        tensors = [x.to(dtype) for x in tensors]
        want = gradients("portable", torch.float64, tensors, options)
        got = gradients("native", dtype, tensors, options)
        for ours, theirs in zip(got, want, strict=True):
            size = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(ours.double(), theirs, rtol=3e-2, atol=3e-2 * size)


@backends
def test_memory_at_any_address(backend):
    memory = bytearray(3 * 4 * 6 * 7 * 2 * 4 + 1)
    given = torch.frombuffer(memory, dtype=torch.float32, offset=1).view(3, 1, 6, 7, 2, 4)
    want = torch.randn(3, 1, 6, 7, 2, 4)
    given.copy_(want)
    with use_backend(backend):
        results = []
        for x in (given, want):
            leaves = [y.detach().requires_grad_() for y in x]
            out = local_attention(*leaves, 3)
            results.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    torch.testing.assert_close(*results)


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that costs nothing until used")
def test_rows_further_apart_than_2_to_the_31():
    apart = 2**31 + 5
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    try:
        memory = torch.frombuffer(
            mmap.mmap(-1, 4 * (4 * apart + 64), flags=flags), dtype=torch.int32
        )
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    far = memory.view(torch.float32).as_strided((1, 4, 5, 1, 3), (0, apart, 3, 3, 1))
    near = torch.randn(1, 4, 5, 1, 3)
    far.copy_(near)
    results = []
    for x in (far, near):
        leaves = [x.detach().requires_grad_() for _ in range(3)]
        with use_backend("native"):
            out = local_attention(*leaves, 3, border="zero")
            results.append((out.detach(), *torch.autograd.grad(out, leaves, x)))
    torch.testing.assert_close(*results)


def test_dropout_drops_the_same_weights_in_every_backend():
    q, k, _ = maps((1, 12, 12), heads=2, dim=4)
    v = torch.eye(144).view(1, 12, 12, 1, 144).expand(1, 12, 12, 2, 144)
    plain = local_attention(q, k, v, 5).view(144, 2, 144)
    dropped = {}
    for backend in ("portable", "native") if library.available() else ("portable",):
        torch.manual_seed(3)
        with use_backend(backend):
            dropped[backend] = local_attention(q, k, v, 5, dropout_p=0.25).view(144, 2, 144)
    one = dropped["portable"]
    kept = one > 0
    torch.testing.assert_close(one[kept], plain[kept] / 0.75)
    share = kept.sum() / (plain > 0).sum()
    assert 0.72 < share < 0.78
    torch.testing.assert_close(dropped.get("native", one), one)
    assert not torch.equal(local_attention(q, k, v, 5, dropout_p=0.25).view_as(one), one)


@pytest.mark.parametrize("bias", [False, True])
def test_opcheck(bias):
    q, k, v = (x.requires_grad_() for x in maps((1, 5, 6)))
    table = torch.randn(2, 5, 5, requires_grad=True) if bias else None
    arguments = (q, k, v, [3, 3], [1, 1], table, 0.5, "shift", None, 0.0, None)
    torch.library.opcheck(torch.ops.foveate.local_attention.default, (*arguments, True, False))
    with torch.no_grad():
        out, lse = torch.ops.foveate.local_attention(*arguments, True, True)
        detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    torch.library.opcheck(
        torch.ops.foveate.local_attention_backward.default, (out, None, None, lse, bias, *detached)
    )


def test_compiles_without_graph_breaks_for_every_size():
    def model(q, k, v, table):
        return local_attention(q, k, v, 3, bias=table, border="mask") * 2

    graphs = []

    def keep(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return aot_eager(graph, inputs)

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    table = torch.randn(2, 5, 5, requires_grad=True)
    for size in ((3, 6, 7), (5, 9, 11)):
        q, k, v = (x.requires_grad_() for x in maps(size))
        out = compiled(q, k, v, table)
        torch.testing.assert_close(out, model(q, k, v, table))
        grads = torch.autograd.grad(out.sum(), (q, k, v, table))
        want = torch.autograd.grad(model(q, k, v, table).sum(), (q, k, v, table))
        torch.testing.assert_close(grads, want, rtol=1e-4, atol=1e-5)
    assert all("foveate.local_attention.default" in targets for targets in graphs)


class Layer(torch.nn.Module):
    """The operator behind one projection, as mechanisms use it."""

    def __init__(self, border, dilation):
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24)
        self.table = torch.nn.Parameter(torch.randn(2, 5, 5))
        self.options = {"border": border, "dilation": dilation}

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).unbind(3)
        return local_attention(q, k, v, 3, bias=self.table, **self.options)


@pytest.mark.parametrize(
    ("border", "dilation"),
    [
        ("shift", 2),
        pytest.param("zero", 1, marks=pytest.mark.slow),
        pytest.param("reflect", 2, marks=pytest.mark.slow),
    ],
)
def test_exports_with_any_height_and_width(border, dilation):
    layer = Layer(border, dilation).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        layer, (torch.randn(2, 9, 10, 8),), dynamic_shapes=({1: auto, 2: auto},)
    )
    assert not any("foveate" in str(node.target) for node in program.graph.nodes)
    for size in ((2, 9, 10, 8), (2, 13, 7, 8)):
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("border", ["shift"])
def test_onnx_gives_the_same_numbers_at_two_sizes(border, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer = Layer(border, 1).eval()
    auto = torch.export.Dim.AUTO
    path = tmp_path / "layer.onnx"
    torch.onnx.export(
        layer,
        (torch.randn(1, 9, 10, 8),),
        path,
        dynamo=True,
        dynamic_shapes=({1: auto, 2: auto},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    for size in ((1, 9, 10, 8), (1, 12, 7, 8)):
        x = torch.randn(size)
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(got), layer(x), rtol=1e-4, atol=1e-5)


def test_inside_function_transforms():
    q, k, v = (
        torch.stack(pair) for pair in zip(maps((1, 5, 6)), maps((1, 5, 6), seed=1), strict=True)
    )
    out = torch.func.vmap(lambda q, k, v: local_attention(q, k, v, 3))(q, k, v)
    torch.testing.assert_close(out[1], local_attention(q[1], k[1], v[1], 3))
    grad = torch.func.grad(lambda q: local_attention(q, k[0], v[0], 3).square().sum())(q[0])
    leaf = q[0].requires_grad_()
    local_attention(leaf, k[0], v[0], 3).square().sum().backward()
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-4, atol=1e-5)


def test_autocast_computes_in_its_dtype():
    q, k, v = maps((1, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert local_attention(q, k.bfloat16(), v, 3).dtype is torch.bfloat16
        assert local_attention(*maps((1, 6, 6), dtype=torch.float64), 3).dtype is torch.float64


def test_flops_are_two_a_multiply_add_with_all_taps():
    q, k, v = (x.requires_grad_() for x in maps((2, 8, 9), dim=4, value_dim=6))
    with FlopCounterMode(display=False) as counter:
        out = local_attention(q, k, v, (3, 5), border="mask")
        forward = counter.get_total_flops()
        out.sum().backward()
    pairs = 2 * 8 * 9 * 2 * 15
    assert forward == 2 * pairs * (4 + 6)
    assert counter.get_total_flops() - forward == 2 * pairs * (3 * 4 + 2 * 6)


def test_explain_says_which_backend_and_why():
    q, k, v = maps((1, 5, 5))
    double = explain("local_attention", q.double(), k.double(), v.double(), 3)
    assert "runs by the portable backend" in double
    if library.available():
        assert "got float64" in double
        assert "runs by the native backend" in explain("local_attention", q, k, v, 3)
        with use_backend("native"), pytest.raises(RuntimeError, match="float64"):
            local_attention(q.double(), k.double(), v.double(), 3)
    else:
        assert library.why_not() in explain("local_attention", q, k, v, 3)
    with use_backend("portable"):
        assert "(forced)" in explain("local_attention", q, k, v, kernel_size=3)
    with use_backend("triton"):
        assert "cannot run by the triton" in explain("local_attention", q.double(), k.double(),
                                                     v.double(), 3)  # fmt: skip
    given = (3, 1, None, None, "mask", None, 0.0, True)
    assert "portable: can run" in explain("local_attention", q, k, v, *given)
    with pytest.raises(ValueError, match="unknown backend"), use_backend("cuda"):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.randn(1, 8, 8, 4)}, r"q must be \(B, H, W, heads, D\)"),
        ({"q": torch.ones(1, 8, 8, 2, 4, dtype=torch.int64)}, "floating dtype"),
        ({"k": torch.randn(1, 8, 7, 2, 4)}, "q and k must have the same shape"),
        ({"v": torch.randn(1, 8, 8, 3, 4)}, "q and v must agree"),
        ({"v": torch.randn(1, 8, 8, 2, 4).double()}, "one dtype"),
        ({"k": torch.randn(1, 8, 8, 2, 4, device="meta")}, "on meta"),
        ({"kernel_size": 9}, r"needs H >= 9 under border=.shift., got H=8"),
        ({"kernel_size": (3, 5), "dilation": 2}, "needs W >= 10"),
        ({"kernel_size": 17, "border": "reflect"}, "mirrors 8 positions"),
        ({"kernel_size": 0}, "kernel_size must be at least 1"),
        ({"dilation": (1, 2, 3)}, "dilation must be an integer or a pair"),
        ({"border": "wrap"}, "unknown border 'wrap'"),
        ({"bias": torch.randn(2, 3, 3)}, "relative table"),
        ({"bias": torch.randn(2, 5, 5).double()}, "bias must be torch.float32"),
        ({"key_mask": torch.ones(1, 8, 8)}, "key_mask must be boolean"),
        ({"key_mask": torch.ones(8, 8, dtype=torch.bool)}, "map's shape"),
        ({"dropout_p": 1.0}, r"dropout_p must be a number in \[0, 1\)"),
    ],
)
def test_mistakes_are_refused(change, message):
    q, k, v = maps((1, 8, 8))
    arguments = {"q": q, "k": k, "v": v, "kernel_size": 3} | change
    with pytest.raises(ValueError, match=message):
        local_attention(**arguments)


@pytest.mark.parametrize("border", ["mask", "zero"])
@pytest.mark.parametrize("dilation", [5000, 2**31, 2**62])
def test_steps_that_leave_the_map_are_alike_however_long(border, dilation):
    q, k, v = torch.randn(3, 2, 6, 5, 2, 4)
    expected = local_attention(q, k, v, 3, 6, border=border)
    torch.testing.assert_close(local_attention(q, k, v, 3, dilation, border=border), expected)
