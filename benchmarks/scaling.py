"""How the cost of local attention grows: with the map, with the kernel, with the batch.

Time and extra memory a pixel. The points of a series take turns, as contestants do: were each
measured in a moment of its own, the machine's mood would bend the curve. A peer is left out where
it would need too much time or memory.

    python -m benchmarks.scaling --save
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
SERIES = {
    "side": [(1, side, 7) for side in SIDES],
    "kernel": [(4, 56, kernel) for kernel in KERNELS],
    "batch": [(batch, 56, 7) for batch in BATCHES],
}
"""Batch, side and kernel of the points of each."""


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


def measure(series: str, repetitions: int) -> list[dict]:
    """Nanoseconds and extra bytes a pixel of a forward pass, at every point of a series."""
    torch.manual_seed(0)
    runs: dict[tuple, Callable[[], object]] = {}
    for batch, side, kernel in SERIES[series]:
        maps = torch.randn(batch, side, side, 3, HEADS, DIM).unbind(3)
        for name, call in contestants(batch, side, kernel).items():
            runs[name, batch, side, kernel] = partial(call, *maps)
    slow = {key: run for key, run in runs.items() if key[0] in PAIRS}
    fast = {key: run for key, run in runs.items() if key[0] not in PAIRS}
    seconds = timed(slow, 3) | timed(fast, repetitions)
    rows = []
    for (name, batch, side, kernel), run in runs.items():
        pixels = batch * side * side
        rows.append(
            {
                "series": series,
                "batch": batch,
                "side": side,
                "kernel": kernel,
                "name": name,
                "nanoseconds_a_pixel": 1e9 * seconds[name, batch, side, kernel].warm / pixels,
                "bytes_a_pixel": peak_memory(run) / pixels,
            }
        )
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    print(machine())
    rows = []
    for series in SERIES:
        for row in measure(series, given.repetitions):
            rows.append(row)
            print(
                f"{series:7} batch {row['batch']:3} side {row['side']:4} kernel {row['kernel']:3} "
                f"{row['name']:12} {row['nanoseconds_a_pixel']:9.1f} ns "
                f"{row['bytes_a_pixel']:9.0f} B a pixel"
            )
    if given.save:
        print(save("scaling", {"heads": HEADS, "dim": DIM, "rows": rows}))


if __name__ == "__main__":
    main()
