"""The kernels for ARM, run in an emulator and compared with the portable forms in float64.

The library is cross-compiled as for a wheel, and QEMU runs it. So it is shown to be right; how
fast it is cannot be learnt from an emulator.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.ops.aggregate._arguments import Arguments as Aggregate
from foveate.ops.aggregate.portable import local_aggregate
from foveate.ops.local._arguments import Arguments as Local
from foveate.ops.local.portable import local_attention
from foveate.ops.narrow_conv._arguments import Arguments as NarrowConv
from foveate.ops.narrow_conv.portable import narrow_conv
from foveate.ops.relation._arguments import Arguments as Relation
from foveate.ops.relation.portable import local_relation
from foveate.ops.scale._arguments import Arguments as Scale
from foveate.ops.scale.portable import scale
from foveate.ops.slide._arguments import Arguments as Slide
from foveate.ops.slide.portable import slide_attention
from foveate.ops.window._arguments import Arguments as Window
from foveate.ops.window.portable import window_attention
from tests.ops import sanitized
from tests.ops.emulated import ADDRESS, EmulatedLibrary, SharedMemory

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 6e-3, torch.float16: 1e-3}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # most of it compiles

interface = sanitized.interface
Expected = dict[str, Tensor]  # by the field that has the address of it


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLibrary]:
    """The library for ARM in an emulator; ``sanitized``'s arrays lie where it finds them."""
    missing = [name for name in ("cmake", COMPILER, EMULATOR) if not shutil.which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")
    folder = tmp_path_factory.mktemp("arm")
    machine = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    run("cmake", "-S", ROOT, "-B", folder, *machine, f"-DCMAKE_C_COMPILER={COMPILER}")
    run("cmake", "--build", folder, "--parallel", "2")
    program = folder / "emulated"
    run(COMPILER, "-O1", "-Wall", "-Werror", "-o", program, ROOT / "tests/ops/emulated.c")
    asked = [COMPILER, "-print-file-name=libc.so.6"]
    libc = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    command = [EMULATOR, "-L", str(Path(libc).resolve().parents[1]), str(program)]
    memory, before = SharedMemory(folder / "memory"), sanitized.MEMORY
    sanitized.MEMORY = memory
    emulated = EmulatedLibrary(command, folder / "libfoveate_ops.so", memory, interface)
    yield emulated
    emulated.close()
    sanitized.MEMORY = before
    memory.close()


# ---- what a kernel should write, from what it is given ---------------------------------------


def tensor(view: Any, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What a view of the kernels' memory holds."""
    strides = view[1 : 1 + len(size)]
    count = 1 + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
    memory = sanitized.MEMORY.buffer
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=view[0] - ADDRESS)
    return flat.as_strided(size, strides)


def contiguous(address: int, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    count = int(np.prod(size))
    memory = sanitized.MEMORY.buffer
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=address - ADDRESS).view(size)


def leaf(x: Tensor) -> Tensor:
    return x.double().requires_grad_()


def dropout(a: Any) -> tuple[float, Tensor | None]:
    """Probability and seed."""
    p = a.run.threshold / 2**32
    return p, torch.tensor(a.run.seed_low | a.run.seed_high << 32) if p else None


class Maps(NamedTuple):
    size: tuple[int, ...]
    dtype: torch.dtype
    q: Tensor
    k: Tensor
    v: Tensor


def maps(a: Any, keys: tuple[int, int] | None = None) -> Maps:
    size, dtype = (a.batch, a.height, a.width, a.heads), DTYPES[a.storage]
    key_size = (a.batch, *(keys or (a.height, a.width)), a.heads)
    q = leaf(tensor(a.q, (*size, a.dim), dtype))
    k = leaf(tensor(a.k, (*key_size, a.dim), dtype))
    return Maps(size, dtype, q, k, leaf(tensor(a.v, (*key_size, a.value_dim), dtype)))


def gradients(loss: Tensor, leaves: dict[str, Tensor]) -> Expected:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def of_local(a: Any) -> Expected:
    keys = (a.key_height, a.key_width)
    m = maps(a, keys)
    kernel, dilation = (a.kernel_h, a.kernel_w), (a.dilation_h, a.dilation_w)
    bias, mask, q, border = None, None, m.q, interface.Border(a.border).name.lower()
    if a.bias_kind == interface.Bias.TABLE:
        size = (a.heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1)
        bias = leaf(contiguous(a.bias[0], size))
    elif a.bias_kind == interface.Bias.EACH:
        taps = kernel[0] * kernel[1]
        each = tensor(a.bias, (*m.size, taps), DTYPES[a.bias_storage])
        bias = leaf(each.unflatten(-1, kernel))
    if a.key_mask[0]:
        mask = tensor(a.key_mask, (a.batch, *keys), torch.bool)
    given, top, left = bias, 0, 0
    if border == "reflect":  # keys came padded: windows on their map, of the queries within it
        top, left = kernel[0] // 2 * dilation[0], kernel[1] // 2 * dilation[1]
        q, border = padded(q, keys, top, left), "shift"
        if a.bias_kind == interface.Bias.EACH:
            given = padded(bias, keys, top, left)
    drop = dropout(a)
    settings = Local(q, m.k, m.v, kernel, dilation, given, a.run.scale, border, mask, *drop)
    out, lse = (
        x[:, top : top + a.height, left : left + a.width] for x in local_attention(settings)
    )
    if not a.dq:
        return {"out": out, "lse": lse}
    loss = (out * tensor(a.grad_out, (*m.size, a.value_dim), m.dtype)).sum()
    if a.grad_lse:
        loss = loss + (lse.masked_fill(lse.isinf(), 0) * contiguous(a.grad_lse, m.size)).sum()
    leaves = {"dq": m.q, "dk": m.k, "dv": m.v}
    return gradients(loss, leaves if bias is None else leaves | {"d_bias": bias})


def padded(x: Tensor, size: tuple[int, int], top: int, left: int) -> Tensor:
    """``x (B, H, W, ...)`` amid zeros."""
    whole = x.new_zeros(x.shape[0], *size, *x.shape[3:])
    whole[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    return whole


def of_slide(a: Any) -> Expected:
    m, taps = maps(a), a.kernel_h * a.kernel_w
    weights = []
    for prefix, dim in (("key", a.dim), ("value", a.value_dim)):
        weights.append(leaf(contiguous(getattr(a, f"{prefix}_weight"), (taps, taps, dim))))
        heads = a.heads if getattr(a, f"{prefix}_bias_stride") else 1
        weights.append(leaf(contiguous(getattr(a, f"{prefix}_bias"), (heads, taps, dim))))
    kernel = (a.kernel_h, a.kernel_w)
    settings = Slide(m.q, m.k, m.v, *weights, kernel, a.run.scale, *dropout(a))
    out, probabilities = slide_attention(settings)
    if not a.dq:
        return {"out": out, "probabilities": probabilities.permute(0, 3, 4, 1, 2)}
    leaves = {"dq": m.q, "dk": m.k, "dv": m.v}
    if a.d_key_weight:
        names = ("d_key_weight", "d_key_bias", "d_value_weight", "d_value_bias")
        leaves |= dict(zip(names, weights, strict=True))
    loss = (out * tensor(a.grad_out, (*m.size, a.value_dim), m.dtype)).sum()
    return gradients(loss, leaves)


def of_window(a: Any) -> Expected:
    m, cells = maps(a), a.window_h * a.window_w
    table = leaf(contiguous(a.bias, (a.heads, cells, cells))) if a.bias else None  # key, query
    size, shift = (a.window_h, a.window_w), (a.shift_h, a.shift_w)
    bias = None if table is None else table.mT
    settings = Window(
        m.q, m.k, m.v, size, shift, bool(a.spread), bias, a.run.scale, *dropout(a)
    )  # fmt: skip
    out = window_attention(settings)
    if not a.dq:
        return {"out": out}
    leaves = {"dq": m.q, "dk": m.k, "dv": m.v}
    if table is not None:
        leaves["d_bias"] = table
    return gradients((out * tensor(a.grad_out, (*m.size, a.value_dim), m.dtype)).sum(), leaves)


def taps_of(a: Any) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Kernel, dilation and border of the operators that read taps."""
    border = interface.TapBorder(a.border).name.lower()
    return (a.kernel_h, a.kernel_w), (a.dilation_h, a.dilation_w), border


def of_aggregate(a: Any) -> Expected:
    place, channels = (a.batch, a.height, a.width), a.share * a.groups
    taps = (a.kernel_h * a.kernel_w, a.groups)
    values = leaf(map_of(a.values, (*place, channels)))
    weights = leaf(tensor(a.weights, (*place, *taps), DTYPES[a.storage]))
    groups = values.unflatten(3, (a.share, a.groups))
    out, kept = local_aggregate(Aggregate(groups, weights, *taps_of(a), bool(a.normalize)))
    out = out.flatten(3)
    if not a.d_values:
        return {"out": out, "probabilities": kept} if a.normalize else {"out": out}
    loss = (out * map_of(a.grad_out, (*place, channels))).sum()
    return gradients(loss, {"d_values": values, "d_weights": weights})


def of_relation(a: Any) -> Expected:
    size = (a.batch, a.height, a.width, a.dim)
    q, k = leaf(map_of(a.q, size)), leaf(map_of(a.k, size))
    relation = interface.Relation(a.relation).name.lower()
    out = local_relation(Relation(q, k, *taps_of(a), relation))
    if not a.dq:
        return {"out": out}
    gradient = contiguous(a.grad_out, tuple(out.shape), DTYPES[a.storage])
    return gradients((out * gradient).sum(), {"dq": q, "dk": k})


def plane(view: Any, size: tuple[int, ...]) -> Tensor:
    """A float32 (B, statistics or channels, rows, columns), the second axis as a view's heads."""
    return tensor((view[0], view[1], view[4], view[2], view[3]), size, torch.float32)


def of_axis_pool(a: Any) -> Expected:
    x = leaf(contiguous(a.x, (a.batch, a.outer, a.middle, a.inner)))
    found, loss = {}, 0
    for axis, name in enumerate(("outer", "middle", "inner"), 1):
        over, index = getattr(a, f"over_{name}"), getattr(a, f"index_{name}")
        if not over[0]:
            continue
        largest, mean = x.max(axis), x.mean(axis)
        want = torch.stack([largest.values, mean] if a.largest else [mean], 1)
        found[f"over_{name}"] = want
        if index[0]:
            found[f"index_{name}"] = largest.indices[:, None].double()
        loss = loss + (want * plane(over, tuple(want.shape))).sum()
    return gradients(loss, {"dx": x}) if a.dx else found


def of_scale(a: Any) -> Expected:
    size = (a.batch, a.outer, a.middle, a.inner)
    x, leaves = leaf(contiguous(a.x, size)), {}
    for name in ("first", "second", "third"):
        view = getattr(a, name)
        if view[0]:
            steps = (view[2], view[3], view[5])
            own = (n if step else 1 for n, step in zip(size[1:], steps, strict=True))
            leaves[f"d_{name}"] = leaf(map_of(view, (a.batch, *own)))
    others = [None] * (3 - len(leaves))
    combination = interface.Combination(a.combination).name.lower()
    out = scale(Scale(x, *leaves.values(), *others, combination))
    if not a.grad_out:
        return {"out": out}
    return gradients((out * contiguous(a.grad_out, size)).sum(), {"out": x, **leaves})


def of_narrow_conv(a: Any) -> Expected:
    channels, size = (a.out_channels, a.in_channels), (a.height, a.width)
    x = leaf(plane(a.x, (a.batch, a.in_channels, *size)))
    weight = leaf(contiguous(a.weight, (*channels, a.kernel_h, a.kernel_w)))
    out = narrow_conv(NarrowConv(x, weight))
    if not a.dx:
        return {"out": out}
    leaves = {"dx": x, "d_weight": weight} if a.d_weight else {"dx": x}
    return gradients((out * plane(a.grad_out, tuple(out.shape))).sum(), leaves)


def map_of(view: Any, size: tuple[int, ...]) -> Tensor:
    """A float32 map (B, H, W, C), whose view has no heads."""
    return tensor((*view[:4], view[5]), size, torch.float32)


EXPECTED: dict[str, Callable[[Any], Expected]] = {
    "local": of_local,
    "slide": of_slide,
    "window": of_window,
    "aggregate": of_aggregate,
    "relation": of_relation,
    "axis_pool": of_axis_pool,
    "scale": of_scale,
    "narrow_conv": of_narrow_conv,
}
ATTENTION = {"out": "storage", "dq": "storage", "dk": "storage", "dv": "storage"}
STORED = {
    "local": ATTENTION | {"d_bias": "bias_storage"},
    "slide": ATTENTION,
    "window": ATTENTION,
    "aggregate": {"d_weights": "storage"},
    "relation": {"out": "storage"},
}
"""What says how a field's numbers are kept; other fields are float32."""


# ---- the cases -------------------------------------------------------------------------------


class Compared:
    """A library whose kernels are compared with the portable form each time one has run."""

    def __init__(self, library: EmulatedLibrary, told: str) -> None:
        self._library, self._told = library, told

    def kernel(self, name: str, isa: str) -> Callable[[Any], None]:
        call, operator = self._library.kernel(name, isa), name.rpartition("_")[0]

        def compared(a: Any) -> None:
            call(a)
            keys_padded = operator == "local" and a.border == interface.Border.REFLECT
            if not a.batch or (keys_padded and a.run.threshold):
                return  # for dropout the portable form numbers queries by the keys' map
            for field, want in EXPECTED[operator](a).items():
                kept = STORED.get(operator, {}).get(field)
                dtype = DTYPES[getattr(a, kept)] if kept else torch.float32
                size, value = tuple(want.shape), getattr(a, field)
                if isinstance(value, tuple):  # a view in place of the address
                    found = (plane if operator == "axis_pool" else map_of)(value, size).double()
                else:
                    found = contiguous(value, size, dtype).double()
                atol = TOLERANCES[dtype] * max(1.0, want.abs().nan_to_num(posinf=0).max().item())
                told = f"{name}, {field} differs by {(found - want).abs().max()}: {self._told}"
                assert torch.allclose(found, want, rtol=0, atol=atol), told

        return compared


@pytest.mark.parametrize("make", sanitized.CASES)
def test_kernels_are_the_portable_form(library: EmulatedLibrary, make: Callable) -> None:
    assert library.instruction_set() == "neon"
    for number in range(100):
        told, run_case = make(random.Random(f"{make.__name__} {number}"), number)
        outputs = run_case(Compared(library, told), "neon")
        assert all(np.isfinite(sanitized.numbers(x, storage)).all() for x, storage in outputs)
        del outputs
        sanitized.MEMORY.free()
