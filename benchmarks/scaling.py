"""How the cost of local attention grows: with the map, with the kernel, with the batch.

Time and extra memory a pixel. A peer is left out where it would need too much of either.

    python -m benchmarks.scaling --save
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.measure import machine, peak_memory, save, timed
from benchmarks.peers import by_full_attention, by_unfold, by_windows, slide_weights
from foveate import ops

HEADS, DIM = 3, 32
SIDES = (14, 28, 56, 112, 224, 448)
KERNELS = (3, 5, 7, 9, 11, 13)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PAIRS = {"im2col": 1_000_000, "full SDPA": 10_000_000}  # a head, beyond which a peer is left out


def points() -> Iterator[tuple[str, int, int, int]]:
    """Series, batch, side and kernel of each point."""
    yield from (("side", 1, side, 7) for side in SIDES)
    yield from (("kernel", 4, 56, kernel) for kernel in KERNELS)
    yield from (("batch", batch, 56, 7) for batch in BATCHES)


def contestants(batch: int, side: int, kernel: int) -> dict[str, Callable]:
    """Functions of q, k, v by name."""
    weights = slide_weights(HEADS, DIM, 3)
    pixels = batch * side * side
    found: dict[str, Callable] = {
        "local": partial(ops.local_attention, kernel_size=kernel),
        "slide 3x3": lambda q, k, v: ops.slide_attention(q, k, v, *weights, kernel_size=3),
    }
    if side % kernel == 0:
        found["window SDPA"] = partial(by_windows, window=kernel)
    if pixels * kernel**2 <= PAIRS["im2col"]:
        found["im2col"] = partial(by_unfold, kernel=kernel)
    if pixels * side**2 <= PAIRS["full SDPA"]:
        found["full SDPA"] = by_full_attention
    return found


def measure(batch: int, side: int, kernel: int) -> list[dict]:
    """Nanoseconds and extra bytes a pixel of a forward pass."""
    torch.manual_seed(0)
    maps = torch.randn(batch, side, side, 3, HEADS, DIM).unbind(3)
    runs = {name: partial(call, *maps) for name, call in contestants(batch, side, kernel).items()}
    pixels = batch * side * side
    fast = {name: run for name, run in runs.items() if name not in ("im2col", "full SDPA")}
    seconds = timed({n: r for n, r in runs.items() if n not in fast}, 3)
    seconds |= timed(fast, max(5, min(101, 2_000_000 // pixels)))
    return [
        {
            "name": name,
            "nanoseconds_a_pixel": 1e9 * seconds[name] / pixels,
            "bytes_a_pixel": peak_memory(run) / pixels,
        }
        for name, run in runs.items()
    ]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    rows = []
    print(machine())
    for series, batch, side, kernel in points():
        for row in measure(batch, side, kernel):
            rows.append({"series": series, "batch": batch, "side": side, "kernel": kernel, **row})
            print(
                f"{series:7} batch {batch:3} side {side:4} kernel {kernel:3} {row['name']:12} "
                f"{row['nanoseconds_a_pixel']:9.1f} ns {row['bytes_a_pixel']:9.0f} B a pixel"
            )
    if given.save:
        print(save("scaling", {"heads": HEADS, "dim": DIM, "rows": rows}))


if __name__ == "__main__":
    main()
