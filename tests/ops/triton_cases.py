"""The Triton kernels against the portable form in float64.

``test_triton.py`` runs this file in a process of its own: on a GPU where there is one, else in
Triton's interpreter, which must be chosen before Triton is imported. There the maps are tiny, and
tiles are smaller than maps all the same.
"""

from __future__ import annotations

import random

import pytest
import torch

from foveate.ops import (
    _backends,
    _triton,
    explain,
    local_attention,
    slide_attention,
    use_backend,
    window_attention,
)

BORDERS = ("shift", "zero", "mask", "reflect")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = [torch.float16] if DEVICE == "cpu" else [torch.float16, torch.bfloat16]
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="takes long in the interpreter")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, of infinities


@pytest.fixture(autouse=True)
def _triton_is_what_runs():
    """A fallback would pass for the kernels here."""
    torch.manual_seed(0)
    assert _backends.interpreted() != (DEVICE == "cuda")


@pytest.fixture(autouse=True)
def take_config(monkeypatch):
    """No search: every new size would cost half a minute. Call with a number to take another."""

    def take(number):
        def launch_one(kernel, programs, configs, *rest):
            one = configs[min(number, len(configs) - 1)]
            launch(kernel, programs, (one,), *rest)

        monkeypatch.setattr(_triton, "launch", launch_one)

    launch = _triton.launch
    take(0)
    return take


def random_tensors(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def run(operator, backend, dtype, tensors, options, seed=1):
    """Output (and log-sum-exp) and the gradients of all tensors, for a gradient of sines."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in tensors]
    torch.manual_seed(seed)
    with use_backend(backend):
        results = operator(*leaves, **options)
        results = results if isinstance(results, tuple) else (results,)
        loss = 0
        for result in results:
            wave = torch.sin(torch.arange(result.numel(), device=result.device)).view_as(result)
            loss = loss + (result.masked_fill(result.isinf(), 0) * wave.to(result.dtype)).sum()
        gradients = torch.autograd.grad(loss, leaves)
    return *(result.detach() for result in results), *gradients


def assert_near(found, expected, tolerance):
    """Each within ``tolerance`` of the larger of one and its largest value."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.is_contiguous()
        largest = max(1.0, theirs.masked_fill(theirs.isinf(), 0).abs().amax().item())
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * largest)


def assert_same(operator, tensors, options, dtype=torch.float32, tolerance=2e-5):
    tensors = [x.to(dtype) for x in tensors]
    expected = run(operator, "portable", torch.float64, tensors, options)
    found = run(operator, "triton", dtype, tensors, options)
    assert found[0].dtype is dtype
    assert_near(found, expected, tolerance)


# ---- local attention


def local_case(size, kernel, dims=(5, 3), heads=1, **options):
    """q, k, v and options; ``bias="table"`` or ``"each"``, ``key_mask=True`` make tensors."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    dim, value_dim = dims
    biases = {
        "table": (heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1),
        "each": (*size, heads, *kernel),
    }
    shapes = [(*size, heads, d) for d in (dim, dim, value_dim)]
    kind = options.pop("bias", None)
    tensors = random_tensors(*shapes, *([biases[kind]] if kind else []))
    if options.pop("key_mask", False):
        options["key_mask"] = random_tensors(size, seed=7)[0] > 0.3
    return tensors, {"kernel_size": kernel, "return_lse": True, **options}


def local(q, k, v, bias=None, **options):
    return local_attention(q, k, v, bias=bias, **options)


LOCAL = {
    "shift": local_case((1, 9, 5), 3, heads=2),
    "shift, small map": local_case((1, 4, 5), (4, 5), bias="table"),
    "shift, dilated": local_case((1, 9, 7), (4, 3), bias="each", dilation=(2, 1), key_mask=True),
    "zero": local_case((1, 5, 7), 3, bias="table", dropout_p=0.3),
    "zero, window beyond the map": local_case((1, 3, 5), (7, 5), bias="each", key_mask=True),
    "zero, more classes than rows": local_case((1, 2, 5), 2, dilation=(3, 2), scale=0.5),
    "mask": local_case((1, 5, 9), (5, 4), bias="each", dropout_p=0.2),
    "mask, dilated": local_case((1, 6, 7), (2, 3), bias="table", dilation=(1, 3), key_mask=True),
    "reflect": local_case((1, 9, 5), (3, 4), bias="table", dims=(16, 18)),
    "reflect, dilated": local_case((1, 5, 7), (3, 2), bias="each", dilation=2, key_mask=True),
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_attention_is_the_portable_one(name, poisoned_memory):
    tensors, options = LOCAL[name]
    assert_same(local, tensors, {**options, "border": name.split(",")[0]})


@pytest.mark.slow
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(12))
def test_local_attention_sweep(border, seed):
    assert_same(local, *random_local_case(border, seed))


@on_gpu
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("seed", range(12, 24))
def test_local_attention_sweep_on_a_gpu(border, seed):
    assert_same(local, *random_local_case(border, seed))


def random_local_case(border, seed):
    pick = random.Random(f"{border} {seed}")
    kernel = pick.randint(1, 7), pick.randint(1, 7)
    dilation = pick.randint(1, 3), pick.randint(1, 3)
    if border in ("zero", "mask"):
        height, width = pick.randint(1, 9), pick.randint(1, 11)
    else:
        height = kernel[0] * dilation[0] + pick.randint(0, 3)
        width = kernel[1] * dilation[1] + pick.randint(0, 5)
    return local_case(
        (pick.randint(1, 2), height, width),
        kernel,
        dims=(pick.choice([3, 8, 20]), pick.choice([4, 16, 33])),
        heads=pick.randint(1, 2),
        bias=pick.choice([None, "table", "each"]),
        dilation=dilation,
        border=border,
        key_mask=pick.random() < 0.3,
        dropout_p=pick.choice([0.0, 0.0, 0.25]),
    )


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("border", "dim"),
    [*((border, 32) for border in BORDERS), *(("shift", dim) for dim in (8, 24, 64, 96, 128, 256))],
)
def test_local_attention_of_every_width(border, dim, dtype):
    tensors, options = local_case((2, 27, 43), 7, dims=(dim, dim), heads=3, bias="table")
    tolerance = {torch.float32: 5e-5, torch.float16: 0.01, torch.bfloat16: 0.05}[dtype]
    assert_same(local, tensors, {**options, "border": border}, dtype, tolerance)


@on_gpu
@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize(("dim", "dtype"), [(32, torch.bfloat16), (64, torch.float32)])
def test_every_config_is_right(dim, dtype, number, take_config):
    take_config(number)
    tolerance = 0.05 if dtype is torch.bfloat16 else 5e-5
    tensors, options = local_case((1, 19, 30), 7, dims=(dim, dim), heads=2)
    assert_same(local, tensors, options, dtype, tolerance)
    tensors, options = slide_case((1, 19, 30), 3, dims=(dim, dim), heads=2)
    assert_same(slide_attention, tensors, options, dtype, 2 * tolerance)
    tensors, options = window_case((1, 19, 30), 7, dims=(dim, dim), heads=2, bias=True)
    assert_same(window, tensors, options, dtype, tolerance)


@on_gpu
def test_the_search_chooses_a_config(monkeypatch):
    monkeypatch.undo()
    tensors, options = local_case((2, 30, 30), 5, dims=(32, 32), heads=2)
    assert_same(local, tensors, options, torch.bfloat16, 0.05)


@pytest.mark.parametrize("dtype", HALF)
def test_local_attention_in_half_precision(dtype):
    tensors, options = local_case((1, 6, 7), 3, dims=(8, 8), bias="table")
    assert_same(local, tensors, options, dtype, 0.04 if dtype is torch.bfloat16 else 0.006)


def test_gradient_of_the_log_sum_exp_alone():
    tensors, options = local_case((1, 5, 6), 3)
    assert_same(lambda *x, **o: local(*x, **o)[1:], [*tensors[:2], tensors[0]], options)


def test_a_query_without_keys_gets_zero():
    q, k, v = random_tensors(*[(1, 5, 9, 1, 4)] * 3)
    mask = torch.zeros(1, 5, 9, dtype=torch.bool, device=DEVICE)
    mask[:, :, 7:] = True
    v[~mask] = float("nan")
    leaves = [x.requires_grad_() for x in (q, k, v)]
    with use_backend("triton"):
        out, lse = local_attention(*leaves, 3, border="mask", key_mask=mask, return_lse=True)
        grads = torch.autograd.grad(out.sum(), leaves)
    assert not out[:, :, :6].any()
    assert (lse[:, :, :6] == -torch.inf).all()
    assert all(grad.isfinite().all() for grad in grads)


def test_views_of_any_strides():
    (qkv,) = random_tensors((1, 6, 7, 3, 1, 8))
    views = qkv.unbind(3)
    apart = [x.movedim(-1, 1).contiguous().movedim(1, -1) for x in views]
    repeated = [x[:, :1].expand(-1, 6, -1, -1, -1) for x in views]
    with use_backend("triton"):
        for given in (apart, repeated, [x.flip(1) for x in repeated]):
            plain = [x.contiguous() for x in given]
            torch.testing.assert_close(local_attention(*given, 3), local_attention(*plain, 3))
        leaf = views[0].detach()[:, :, :1].requires_grad_()
        local_attention(leaf.expand(-1, -1, 7, -1, -1), *views[1:], 3).sum().backward()
    assert leaf.grad.shape == leaf.shape


@on_gpu
def test_equal_inputs_give_equal_gradients():
    tensors, options = local_case((1, 9, 4), 3, bias="table")
    first, second = (run(local, "triton", torch.float32, tensors, options) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_second_derivatives():
    leaves = [x.requires_grad_() for x in random_tensors(*[(1, 4, 4, 1, 3)] * 3)]

    def penalty(backend, dtype):
        with use_backend(backend):
            out = local_attention(*(x.to(dtype) for x in leaves), 3)
            (grad,) = torch.autograd.grad(out.square().sum(), leaves[0], create_graph=True)
            return torch.autograd.grad(grad.square().sum(), leaves)

    torch.testing.assert_close(
        penalty("triton", torch.float32), penalty("portable", torch.float64), rtol=1e-3, atol=1e-3
    )


# ---- slide attention


def slide_case(size, kernel, dims=(4, 4), heads=1, bias_heads=None, **options):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    taps = kernel[0] * kernel[1]
    dim, value_dim = dims
    tensors = random_tensors(
        (*size, heads, dim), (*size, heads, dim), (*size, heads, value_dim),
        (taps, taps, dim), (bias_heads or heads, taps, dim),
        (taps, taps, value_dim), (1, taps, value_dim),
    )  # fmt: skip
    for weight in (tensors[3], tensors[5]):
        weight *= 0.4
    return tensors, {"kernel_size": kernel, **options}


SLIDE = {
    "3x3": slide_case((1, 5, 5), 3, heads=2),
    "one pixel": slide_case((1, 1, 1), 3, dims=(1, 2)),
    "one row, shared bias": slide_case((1, 1, 9), 3, heads=2, bias_heads=1, dropout_p=0.3),
    "1x1": slide_case((1, 3, 5), 1, dims=(8, 3)),
    "2x3": slide_case((2, 3, 4), (2, 3), dims=(3, 17), scale=0.7),
    "5x4": slide_case((1, 4, 6), (5, 4)),
}


@pytest.mark.parametrize("name", SLIDE)
def test_slide_attention_is_the_portable_one(name, poisoned_memory):
    assert_same(slide_attention, *SLIDE[name])


def test_weight_gradients_of_many_chunks(monkeypatch):
    from foveate.ops.slide import triton as kernels

    monkeypatch.setattr(kernels, "_PIXELS", 7)
    assert_same(slide_attention, *slide_case((2, 3, 5), (1, 2), heads=2, bias_heads=1))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "dim"), [(7, 32), ((5, 4), 16), *((3, dim) for dim in (8, 24, 32, 64, 128, 256))]
)
def test_slide_attention_of_every_width(kernel, dim, dtype):
    tensors, options = slide_case((2, 27, 43), kernel, dims=(dim, dim), heads=3)
    tolerance = {torch.float32: 5e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    assert_same(slide_attention, tensors, options, dtype, tolerance)


@pytest.mark.parametrize("dtype", HALF)
def test_slide_attention_in_half_precision(dtype):
    tensors, options = slide_case((1, 5, 6), 3, dims=(8, 8))
    tolerance = 0.06 if dtype is torch.bfloat16 else 0.01
    assert_same(slide_attention, tensors, options, dtype, tolerance)


@on_gpu
@pytest.mark.parametrize("dtype", HALF)
def test_slide_attention_of_half_precision_with_float32_weights(dtype):
    tensors, options = slide_case((1, 4, 4), 3)
    with use_backend("triton"):
        leaves = [x.requires_grad_() for x in tensors]
        out = slide_attention(*(x.to(dtype) for x in leaves[:3]), *leaves[3:], **options)
        grads = torch.autograd.grad(out.float().sum(), leaves)
    assert out.dtype is dtype
    assert all(grad.dtype is torch.float32 for grad in grads)


# ---- window attention


def window_case(size, window, dims=(4, 4), heads=1, bias=False, **options):
    window = (window, window) if isinstance(window, int) else window
    dim, value_dim = dims
    shapes = [(*size, heads, dim), (*size, heads, dim), (*size, heads, value_dim)]
    if bias:
        rows, columns = (w or side for w, side in zip(window, size[1:], strict=True))
        cells = rows * columns
        shapes.append((heads, cells, cells))
    return random_tensors(*shapes), {"window_size": window, **options}


def window(q, k, v, bias=None, **options):
    return window_attention(q, k, v, bias=bias, **options)


WINDOW = {
    "plain, several blocks": window_case((1, 5, 14), (5, 7), heads=2, bias=True),
    "shifted": window_case((2, 8, 12), 4, bias=True, shift_size=(1, 2), dims=(3, 17)),
    "shifted, padded": window_case((1, 7, 9), (3, 4), bias=True, shift_size=2, dropout_p=0.3),
    "stripes": window_case((1, 6, 5), (None, 2), heads=2, scale=0.7),
    "spread": window_case((1, 6, 8), (3, 2), bias=True, spread=True, dropout_p=0.2),
    "spread, padded": window_case((2, 5, 7), (3, 3), spread=True, heads=2),
    "one cell": window_case((1, 3, 2), 1, bias=True),
}


@pytest.mark.parametrize("name", WINDOW)
def test_window_attention_is_the_portable_one(name, poisoned_memory):
    assert_same(window, *WINDOW[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_window_attention_sweep(seed):
    pick = random.Random(seed)
    side = pick.randint(1, 6), pick.randint(1, 6)
    size = pick.randint(1, 2), side[0] + pick.randint(0, 7), side[1] + pick.randint(0, 7)
    spread = pick.random() < 0.3
    case = window_case(
        size,
        side,
        dims=(pick.choice([3, 8, 20]), pick.choice([4, 16, 33])),
        heads=pick.randint(1, 2),
        bias=pick.random() < 0.6,
        spread=spread,
        shift_size=(0, 0) if spread else (pick.randrange(side[0]), pick.randrange(side[1])),
        dropout_p=pick.choice([0.0, 0.25]),
    )
    assert_same(window, *case)


@pytest.mark.parametrize("dtype", HALF)
def test_window_attention_in_half_precision(dtype):
    tensors, options = window_case((1, 6, 7), (3, 4), dims=(8, 8), bias=True, shift_size=1)
    assert_same(window, tensors, options, dtype, 0.04 if dtype is torch.bfloat16 else 0.006)


def test_a_key_hidden_by_the_bias():
    tensors, options = window_case((1, 3, 6), 3, bias=True)
    tensors[3][:, :, 4] = float("-inf")
    with use_backend("triton"):
        out = window(*tensors, **options)
    expected = window(*(x.double() for x in tensors), **options)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)


def test_bias_gradient_of_many_chunks(monkeypatch):
    from foveate.ops.window import triton as kernels

    monkeypatch.setattr(kernels, "_CHUNKS", 3)
    assert_same(window, *window_case((2, 4, 5), (2, 1), heads=2, bias=True))


def test_window_attention_by_triton_is_asked_for():
    tensors, options = window_case((1, 4, 4), 2)
    assert "use_backend" in explain("window_attention", *tensors, **options)
    with use_backend("triton"):
        told = explain("window_attention", *tensors, **options)
    assert "runs by the triton backend (forced)" in told


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("side", "dim"), [(7, 32), (14, 32), *((7, d) for d in (8, 24, 64, 256))])
def test_window_attention_of_every_width(side, dim, dtype):
    case = window_case((2, 28, 43), side, dims=(dim, dim), heads=3, bias=True, shift_size=3)
    tolerance = {torch.float32: 5e-5, torch.float16: 0.01, torch.bfloat16: 0.05}[dtype]
    assert_same(window, *case, dtype, tolerance)


# ---- as operators


@pytest.mark.parametrize("operator", ["local_attention", "slide_attention"])
def test_empty_batch(operator):
    case, function = (
        (local_case((0, 5, 6), 3, bias="table"), local)
        if operator == "local_attention"
        else (slide_case((0, 5, 6), 3), slide_attention)
    )
    found = run(function, "triton", torch.float32, *case)
    assert found[0].shape[0] == 0
    assert not any(grad.any() for grad in found[1:])


def test_operators_obey_pytorch():
    q, k, v, bias = (x.requires_grad_() for x in local_case((1, 3, 4), 3, bias="table")[0])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    with use_backend("triton"):
        torch.library.opcheck(
            torch.ops.foveate.local_attention.default,
            (q, k, v, [3, 3], [1, 1], bias, 0.5, "shift", None, 0.0, None, True, False),
            test_utils=tests,
        )
        tensors = [x.requires_grad_() for x in slide_case((1, 3, 4), 3)[0]]
        torch.library.opcheck(
            torch.ops.foveate.slide_attention.default,
            (*tensors, [3, 3], 0.5, 0.0, None, False, True),
            test_utils=tests,
        )


@on_gpu
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_breaks(dynamic):
    def model(*tensors):
        return slide_attention(*local_case_of(tensors), *tensors[4:], 3)

    def local_case_of(tensors):
        return local_attention(*tensors[:3], 3, bias=tensors[3]), *tensors[1:3]

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for size in ((2, 9, 10), (3, 20, 14)):
        maps, _ = local_case(size, 3, dims=(8, 8), heads=2, bias="table")
        weights = slide_case(size, 3, dims=(8, 8), heads=2)[0][3:]
        leaves = [x.requires_grad_() for x in (*maps, *weights)]
        out, expected = compiled(*leaves), model(*leaves)
        torch.testing.assert_close(out, expected)
        grads = torch.autograd.grad(out.square().sum(), leaves)
        wanted = torch.autograd.grad(expected.square().sum(), leaves)
        torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-4)


@on_gpu
def test_more_than_two_to_the_31_elements():
    q = torch.zeros(1, 2**13 + 1, 2**13, 1, 32, device=DEVICE, dtype=torch.bfloat16)
    v = q.clone()
    v[:, -1] = 1
    with use_backend("triton"):
        out = local_attention(q, q, v, 3)
    torch.testing.assert_close(
        out[0, -1, -1].float(), torch.full((1, 32), 1 / 3, device=DEVICE), rtol=0.01, atol=0
    )


def test_what_the_kernels_cannot_take_is_said():
    tensors, options = local_case((1, 4, 4), 3)
    doubles = [x.double() for x in tensors]
    assert "float64" in explain("local_attention", *doubles, **options)
    with use_backend("triton"), pytest.raises(RuntimeError, match="float64"):
        local_attention(*doubles, **options)
    wide = local_case((1, 4, 4), 3, dims=(257, 4))[0]
    with use_backend("triton"), pytest.raises(RuntimeError, match="256 channels, and got 257"):
        local_attention(*wide, **options)
    with use_backend("triton"):
        assert "runs by the triton backend" in explain("local_attention", *tensors, **options)
