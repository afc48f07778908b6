"""Runs the compiled kernels over random small cases; started by ``test_sanitizers``.

    python -m tests.ops.sanitized LIBRARY CASES

The library is built with sanitizers, which end the process at the first error; the case that was
running is the last one told. Every instruction set that was built and that this machine can run
gets the same cases.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from foveate import ops
from foveate.ops.native import library

BORDERS = ("shift", "zero", "mask", "reflect")
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)
DIMS = (1, 3, 8, 15, 16, 31, 32, 33, 64, 128)
INSTRUCTION_SETS = ("generic", "v3", "v4")
MOST_PRODUCTS = 150_000  # of one case: unoptimized code takes its time
MOST_WEIGHTS = 20_000  # of slide attention, in each of its two kernels


def laid_out(pick: random.Random, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random numbers ``(B, H, W, heads, D)`` in one of the ways that views lie in memory.

    What surrounds them is in other allocations or NaN, so that a read of it shows.
    """
    layout = pick.choice(("packed", "projection", "channels first", "reversed", "crop", "expanded"))
    x = torch.randn(size).to(dtype)
    if layout == "packed":
        return x.clone()
    if layout == "expanded":
        return x[:1].clone().expand(size)
    if layout == "crop":
        padded = torch.full([n + 3 for n in size], float("nan"), dtype=dtype)
        inner = padded[tuple(slice(1, 1 + n) for n in size)]
    elif layout == "projection":
        three = torch.full((*size[:3], 3, *size[3:]), float("nan"), dtype=dtype)
        inner = three[:, :, :, pick.randrange(3)]
    else:
        order = (0, 3, 4, 1, 2) if layout == "channels first" else (4, 3, 2, 1, 0)
        inner = torch.empty([size[i] for i in order], dtype=dtype)
        inner = inner.permute([order.index(i) for i in range(5)])
    return inner.copy_(x)


def pick_map(pick: random.Random, reach: tuple[int, int], any_size: bool) -> tuple[int, int]:
    """Height and width: around the kernel's reach, or also below it if ``any_size``."""
    if any_size and pick.random() < 0.5:
        return pick.choice([(1, 1), (1, pick.randint(2, 40)), (pick.randint(2, 20), 1), (3, 5)])
    return reach[0] + pick.randint(0, 3), reach[1] + pick.choice([0, 0, 1, 2, 5, 17])


def local_case(pick: random.Random, number: int) -> tuple[list[Tensor], dict, Callable]:
    border, dim = BORDERS[number % 4], DIMS[number // 4 % len(DIMS)]
    while True:
        kernel = pick.randint(1, 13), pick.randint(1, 13)
        dilation = pick.randint(1, 3), pick.randint(1, 3)
        reach = kernel[0] * dilation[0], kernel[1] * dilation[1]
        height, width = pick_map(pick, reach, border in ("zero", "mask"))
        batch, heads = pick.randint(1, 2), pick.randint(1, 3)
        queries = batch * height * width * heads
        if queries * kernel[0] * kernel[1] * dim <= MOST_PRODUCTS * (4 if dim > 32 else 1):
            break
    size = (batch, height, width, heads)
    value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
    dtype = pick.choice(DTYPES)
    tensors = [laid_out(pick, (*size, d), dtype) for d in (dim, dim, value_dim)]
    bias = pick.choice(["none", "table", "each"])
    if bias == "table":
        tensors.append(torch.randn(heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1))
    elif bias == "each":
        each = torch.randn(batch, heads, height, width, *kernel)
        tensors.append(each.movedim(1, 3) if pick.random() < 0.5 else each.movedim(1, 3).clone())
    visible = pick.choice([None, 0.0, 0.6, 0.6])
    with_lse = pick.random() < 0.5
    options = {
        "kernel_size": kernel,
        "dilation": dilation,
        "border": border,
        "dropout_p": pick.choice([0.0, 0.3]),
        "key_mask": None if visible is None else torch.rand(size[:3]) < visible,
        "return_lse": with_lse,
    }

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> list[Tensor]:
        found = ops.local_attention(q, k, v, bias=bias, **options)
        if not with_lse:
            return [found]
        out, lse = found
        return [out, lse.masked_fill(lse.isinf(), 0)]

    return tensors, options | {"bias": bias}, run


def slide_case(pick: random.Random, number: int) -> tuple[list[Tensor], dict, Callable]:
    dim = DIMS[number % len(DIMS)]
    while True:
        kernel = pick.choice([(3, 3), (3, 3), (pick.randint(1, 7), pick.randint(1, 7))])
        slots = kernel[0] * kernel[1]
        height, width = pick_map(pick, kernel, True)
        batch, heads = pick.randint(1, 2), pick.randint(1, 3)
        value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
        wider = max(dim, value_dim)
        products = batch * height * width * heads * slots * slots * wider
        if products <= MOST_PRODUCTS * 4 and slots * slots * wider <= MOST_WEIGHTS:
            break
    size = (batch, height, width, heads)
    dtype = pick.choice(DTYPES)
    tensors = [laid_out(pick, (*size, d), dtype) for d in (dim, dim, value_dim)]
    for d in (dim, value_dim):
        tensors += [
            torch.randn(slots, slots, d),
            torch.randn(pick.choice([1, heads]), slots, d),
        ]
    options = {"kernel_size": kernel, "dropout_p": pick.choice([0.0, 0.3])}
    return tensors, options, lambda *tensors: [ops.slide_attention(*tensors, **options)]


def window_case(pick: random.Random, number: int) -> tuple[list[Tensor], dict, Callable]:
    dim, spread = DIMS[number % len(DIMS)], pick.random() < 0.3
    while True:
        height, width = pick_map(pick, (pick.randint(1, 13), pick.randint(1, 13)), True)
        part = tuple(pick.choice([None, pick.randint(1, side)]) for side in (height, width))
        cells = (part[0] or height) * (part[1] or width)
        batch, heads = pick.randint(1, 2), pick.randint(1, 3)
        if batch * heads * height * width * cells * dim <= MOST_PRODUCTS * (4 if dim > 32 else 1):
            break
    size = (batch, height, width, heads)
    value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
    dtype = pick.choice(DTYPES)
    tensors = [laid_out(pick, (*size, d), dtype) for d in (dim, dim, value_dim)]
    if pick.random() < 0.5:
        tensors.append(torch.randn(heads, cells, cells))
    sides = part[0] or height, part[1] or width
    shift = (0, 0) if spread else tuple(pick.choice([0, pick.randrange(n)]) for n in sides)
    options = {
        "window_size": part,
        "shift_size": shift,
        "spread": spread,
        "dropout_p": pick.choice([0.0, 0.3]),
    }

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> list[Tensor]:
        return [ops.window_attention(q, k, v, bias=bias, **options)]

    return tensors, options, run


def told(tensors: list[Tensor], options: dict) -> str:
    maps = " ".join(f"{x.dtype}{tuple(x.shape)}/{x.stride()}" for x in tensors[:3])
    words = {name: x for name, x in options.items() if not isinstance(x, Tensor)}
    return f"{maps} {words}"


def main() -> None:
    path, cases = Path(sys.argv[1]), int(sys.argv[2])
    library._places = lambda stack: [path]
    sets = INSTRUCTION_SETS[: INSTRUCTION_SETS.index(library.instruction_set()) + 1]
    sets = [isa for isa in sets if hasattr(library._library(), f"slide_forward_{isa}")]
    for number, make in product(range(cases), (local_case, slide_case, window_case)):
        pick = random.Random(f"{make.__name__} {number}")
        torch.manual_seed(number)
        torch.set_num_threads(pick.randint(1, 2))
        tensors, options, run = make(pick, number)
        for isa in sets:
            library.instruction_set = lambda isa=isa: isa
            library.kernel.cache_clear()
            print(make.__name__, number, isa, told(tensors, options), file=sys.stderr, flush=True)
            with ops.use_backend("native"):
                leaves = [x.detach().requires_grad_(number % 7 != 6) for x in tensors]
                outputs = run(*leaves)
                if number % 7 != 6:
                    sum(x.sum() for x in outputs).backward()
                    outputs += [x.grad for x in leaves]
            if not all(x.isfinite().all() for x in outputs):
                sys.exit("memory was read before it was written, or beside what was given")
    print("instruction sets:", *sets)


if __name__ == "__main__":
    main()
