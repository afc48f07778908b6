"""The Triton kernels: run in the interpreter or on a GPU, compiled for one that is not here."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode

from foveate.ops import _backends, explain, local_attention, slide_attention, use_backend
from foveate.ops._operator import Flags, Given

triton = pytest.importorskip("triton")
interpreted = triton.knobs.runtime.interpret
compiles = pytest.mark.skipif(interpreted, reason="Triton is told to interpret, not to compile")

CASES = Path(__file__).with_name("triton_cases.py")
ROOT = Path(__file__).parents[2]
SHARED_MEMORY = 227 << 10  # of one program on Hopper
SPILLED = 128  # bytes of a thread


def run_cases(*options):
    """``triton_cases.py`` in a process of its own."""
    on_gpu = torch.cuda.is_available()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(CASES)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "0" if on_gpu else "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    assert " passed" in result.stdout


@pytest.mark.timeout(1200)
def test_kernels_are_the_portable_forms():
    run_cases()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kernels_are_the_portable_forms_in_a_sweep():
    run_cases("-m", "slow")


# ---- compiled for a GPU that need not be there


@pytest.fixture
def launches(monkeypatch):
    """What would be started, in place of starting it."""
    from foveate.ops import _triton

    caught = []

    def catch(kernel, programs, configs, key, arguments):
        assert programs(configs[0].kwargs) > 0
        assert set(key) <= set(arguments)
        caught.append((kernel, configs, arguments))

    monkeypatch.setattr(_triton, "launch", catch)
    return caught


def launch_local(dim, dtype, kernel=(7, 7), bias=None, dilation=(1, 1), border="shift", p=0.0):
    from foveate.ops.local import triton as kernels
    from foveate.ops.local._arguments import Arguments

    size, heads = (2, 14, 20), 3
    q, k, v = torch.empty(*size, 3, heads, dim, dtype=dtype).unbind(3)
    biases = {
        "table": torch.empty(heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1),
        "each": torch.empty(*size, heads, *kernel),
    }
    mask = torch.ones(size, dtype=torch.bool) if p else None
    seed = torch.tensor(3) if p else None
    a = Arguments(q, k, v, kernel, dilation, biases.get(bias), 0.3, border, mask, p, seed)
    out, lse = kernels.forward(a, Flags(return_kept=False, training=True))
    kernels.backward(Given(out, lse if bias else None, out, lse, bias is not None), a)


def launch_slide(dim, dtype, kernel=(3, 3), weight_dtype=None, p=0.0):
    from foveate.ops.slide import triton as kernels
    from foveate.ops.slide._arguments import Arguments

    heads, taps = 3, kernel[0] * kernel[1]
    q, k, v = torch.empty(2, 14, 20, 3, heads, dim, dtype=dtype).unbind(3)
    shapes = [(taps, taps, dim), (heads, taps, dim), (taps, taps, dim), (1, taps, dim)]
    weights = [torch.empty(shape, dtype=weight_dtype or dtype) for shape in shapes]
    a = Arguments(q, k, v, *weights, kernel, 0.3, p, torch.tensor(3) if p else None)
    out, kept = kernels.forward(a, Flags(return_kept=False, training=True))
    kernels.backward(Given(out, None, None, kept, True), a)


def launch_window(dim, dtype, window=(7, 7), bias=True, spread=False, p=0.0):
    from foveate.ops.window import triton as kernels
    from foveate.ops.window._arguments import Arguments

    size, heads, cells = (2, 14, 21), 3, window[0] * window[1]
    q, k, v = torch.empty(*size, 3, heads, dim, dtype=dtype).unbind(3)
    table = torch.empty(heads, cells, cells) if bias else None
    shift = (0, 0) if spread else (3, 3)
    a = Arguments(q, k, v, window, shift, spread, table, 0.3, p, torch.tensor(3) if p else None)
    out, _ = kernels.forward(a, Flags(return_kept=False, training=True))
    kernels.backward(Given(out, None, None, out, bias), a)


def compile_all(launches, every_config=False):
    """Each distinct kernel of what was launched, for Hopper."""
    from tests.ops.triton_target import compile_kernel

    assert launches
    for kernel, configs, arguments in launches:
        for config in configs if every_config else configs[:1]:
            usage = compile_kernel(kernel, config, arguments)
            assert usage.shared <= SHARED_MEMORY, (kernel.__name__, config, usage)
            if not every_config:  # the search leaves out what spills more
                assert usage.stack <= SPILLED, (kernel.__name__, config, usage)


LOCAL = {
    "bfloat16": {"dim": 32, "dtype": torch.bfloat16, "bias": "table"},
    "float16, dropout": {
        "dim": 24, "dtype": torch.float16, "bias": "each", "p": 0.1, "dilation": (2, 3),
        "border": "reflect", "kernel": (4, 5),
    },
    "float32": {"dim": 32, "dtype": torch.float32, "border": "zero"},
}  # fmt: skip


@compiles
@pytest.mark.parametrize("name", LOCAL)
def test_local_kernels_compile(name, launches):
    launch_local(**LOCAL[name])
    compile_all(launches)


@compiles
@pytest.mark.parametrize(("dtype", "p"), [(torch.bfloat16, 0.1), (torch.float32, 0.0)])
def test_slide_kernels_compile(dtype, p, launches):
    launch_slide(32, dtype, weight_dtype=torch.float32, p=p)
    compile_all(launches)


@compiles
@pytest.mark.parametrize(
    ("dtype", "spread", "p"), [(torch.bfloat16, False, 0.1), (torch.float32, True, 0.0)]
)
def test_window_kernels_compile(dtype, spread, p, launches):
    launch_window(32, dtype, bias=not spread, spread=spread, p=p)
    compile_all(launches)


@compiles
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [16, 32, 64, 128, 256])
def test_every_config_compiles(dim, dtype, launches):
    launch_local(dim, dtype, bias="table")
    launch_local(dim, dtype, border="reflect")
    launch_slide(dim, dtype)
    launch_slide(dim, dtype, kernel=(7, 7))
    launch_window(dim, dtype)
    launch_window(dim, dtype, bias=False, spread=True)
    compile_all(launches, every_config=True)


# ---- as a backend


class Hopper:
    """The part of a Triton driver that tracing asks."""

    def get_current_target(self):
        from tests.ops.triton_target import HOPPER

        return HOPPER

    def get_current_device(self):
        return 0


@compiles
def test_the_compiler_sees_the_kernels(monkeypatch):
    monkeypatch.setattr(_backends, "_no_triton", lambda device: "")
    driver = triton.runtime.driver
    monkeypatch.setattr(driver, "_active", Hopper())
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    def local(q, k, v, table):
        return local_attention(q, k, v, 3, bias=table) * 2

    def local_backward(grad, lse, q, k, v, table):
        return torch.ops.foveate.local_attention_backward(
            grad, None, grad, lse, True, q, k, v, [3, 3], [1, 1], table, 0.5, "shift", None, 0.0,
            None,
        )  # fmt: skip

    def slide(q, k, v, *weights):
        return slide_attention(q, k, v, *weights, 3) * 2

    def slide_backward(grad, probabilities, *tensors):
        return torch.ops.foveate.slide_attention_backward(
            grad, None, None, probabilities, True, *tensors, [3, 3], 0.5, 0.0, None
        )

    with FakeTensorMode(), torch.no_grad():
        maps = torch.empty(2, 14, 20, 3, 3, 32, device="cuda").unbind(3)
        table = torch.empty(3, 5, 5, device="cuda")
        weight, bias = (torch.empty(n, 9, 32, device="cuda") for n in (9, 3))
        weights = weight, bias, weight, bias
        probabilities = torch.empty(2, 3, 9, 14, 20, device="cuda")
        for kernels, function, *inputs in (
            (1, local, *maps, table),
            (3, local_backward, maps[0], maps[0][..., 0], *maps, table),
            (1, slide, *maps, *weights),
            (5, slide_backward, maps[0], probabilities, *maps, *weights),
        ):
            compiled = torch.compile(
                function, backend=aot_autograd(fw_compiler=keep), fullgraph=True, dynamic=True
            )
            compiled(*inputs)
            assert sum("triton_kernel_wrapper" in target for target in graphs[-1]) == kernels
            assert not any("foveate" in target for target in graphs[-1])


def test_explain_tells_why_not_triton():
    q = torch.randn(1, 5, 5, 1, 4)
    if not interpreted:
        assert "triton: cannot: it computes on CUDA" in explain("local_attention", q, q, q, 3)
        with use_backend("triton"), pytest.raises(RuntimeError, match="tensors are on cpu"):
            local_attention(q, q, q, 3)


def test_a_gradient_taken_in_another_thread_obeys(monkeypatch):
    """As on a GPU, whose gradients PyTorch computes in a thread of the device's own."""
    from foveate.ops.local import operator

    def refuse(*arguments):
        raise AssertionError("portable was asked for")

    monkeypatch.setattr(operator.native, "local_attention_backward", refuse)
    q = torch.randn(1, 5, 5, 1, 4, requires_grad=True)
    with use_backend("portable"):
        out = local_attention(q, q, q, 3)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(out.sum().backward).result()
    assert q.grad is not None
