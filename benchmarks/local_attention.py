"""Local attention beside what else computes it, in one process: time, rate and memory.

Everything gets the same q, k, v: views of one projection's output ``(B, H, W, 3, heads, D)``. The
contestants take turns, so that a busy moment strikes all alike. A turn is two calls: the second is
what a loop sees; the first, ``cold``, finds in the caches what the one before left there. Medians
are shown, and the float32 rate of a large matrix multiply on the same threads.

    python -m benchmarks.local_attention --save
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.figures import figures, table
from benchmarks.measure import machine, peak_memory, save, timed
from benchmarks.peers import (
    Maps,
    by_depthwise,
    by_flex,
    by_full_attention,
    by_natten,
    by_unfold,
    by_windows,
    slide_weights,
)
from foveate import ops


def contestants(size: tuple[int, ...], kernel: int, slide_kernel: int) -> dict[str, Callable]:
    """Functions of q, k, v by name."""
    _, height, width, heads, dim = size
    found: dict[str, Callable] = {
        f"local {kernel}x{kernel}": partial(ops.local_attention, kernel_size=kernel),
        f"im2col {kernel}x{kernel}": partial(by_unfold, kernel=kernel),
        f"compiled FlexAttention {kernel}x{kernel}": by_flex(height, width, kernel),
        f"window SDPA {kernel}x{kernel}": partial(by_windows, window=kernel),
        "full SDPA": by_full_attention,
    }
    if find_spec("natten"):
        found[f"NATTEN {kernel}x{kernel}"] = partial(by_natten, kernel=kernel)
    weights = slide_weights(heads, dim, slide_kernel)
    name = f"{slide_kernel}x{slide_kernel}"
    found[f"slide {name}"] = lambda q, k, v: ops.slide_attention(
        q, k, v, *weights, kernel_size=slide_kernel
    )
    found[f"slide {name}, depthwise"] = partial(by_depthwise, weights=weights, kernel=slide_kernel)
    return found


def train(function: Callable, maps: Maps, grad: Tensor) -> object:
    return torch.autograd.grad(function(*maps), maps, grad)


def measure(size: tuple[int, ...], kernel: int, slide_kernel: int, repetitions: int) -> dict:
    torch.manual_seed(0)
    batch, height, width, heads, dim = size
    with torch.no_grad():
        maps = torch.randn(batch, height, width, 3, heads, dim).unbind(3)
    leaves = [x.detach().requires_grad_() for x in maps]
    grad = torch.randn(size)
    functions = contestants(size, kernel, slide_kernel)

    def forward(function: Callable) -> object:
        with torch.no_grad():
            return function(*maps)

    square = torch.randn(1536, 1536)
    runs: dict[str, Callable[[], object]] = {"peak": lambda: square @ square}
    for name, function in functions.items():
        runs[f"{name} forward"] = partial(forward, function)
        if "Flex" not in name and "NATTEN" not in name:  # no backward on CPUs
            runs[f"{name} training"] = partial(train, function, leaves, grad)
    seconds = timed(runs, repetitions)
    peak = 2 * len(square) ** 3 / seconds["peak"].warm
    return figures(
        functions, seconds, peak, lambda name: peak_memory(runs[name]),
        size, kernel, slide_kernel, torch.float32,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--height", type=int, default=56)
    parser.add_argument("--width", type=int, default=56)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--dim", type=int, default=32, help="channels of a head")
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--slide-kernel", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    size = (given.batch, given.height, given.width, given.heads, given.dim)
    result = measure(size, given.kernel, given.slide_kernel, given.repetitions)
    print(machine())
    print(table(result))
    if given.save:
        print(save("local_attention", result))


if __name__ == "__main__":
    main()
