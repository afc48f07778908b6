"""The goals of the CPU operators, each beside what is measured today, in one process.

    python -m benchmarks.operators [GOAL ...] [--threads N] [--save]

Whatever is compared takes turns, so that a busy moment strikes all alike; medians of warm calls are
shown (``--least``: the least of them, on a machine that others use as well). The share of the peak
is of the rate of a large matrix multiply on the same threads, in the same turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.figures import flops
from benchmarks.measure import least, machine, save, timed
from benchmarks.peers import by_biased_windows, slide_weights
from foveate import ops

HEADS, DIM = 3, 32
LARGE = (4, 56, 56, HEADS, DIM)
Run = Callable[[], object]


class Figure(NamedTuple):
    """A number that a goal is stated in, and its bound."""

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Calls(NamedTuple):
    """An operator on maps of one size: a forward, and a backward of a forward that is kept."""

    forward: Run
    backward: Run


def maps_of(size: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """q, k, v as views of one projection's output."""
    batch, height, width, heads, dim = size
    whole = torch.randn(batch, height, width, 3, heads, dim, dtype=dtype)
    return list(whole.unbind(3))


def calls(
    function: Callable[..., Tensor],
    size: tuple[int, ...] = LARGE,
    dtype: torch.dtype = torch.float32,
    repeated: int = 1,
) -> Calls:
    """Both ways of a function of q, k, v, so many calls a run."""
    maps = maps_of(size, dtype)
    leaves = [x.detach().requires_grad_() for x in maps]
    out, grad = function(*leaves), torch.randn(size, dtype=dtype)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(repeated):
                function(*maps)

    def backward() -> None:
        for _ in range(repeated):
            torch.autograd.grad(out, leaves, grad, retain_graph=True)

    return Calls(forward, backward)


def local(**options: object) -> Callable[..., Tensor]:
    return partial(ops.local_attention, **{"kernel_size": 7, **options})


def slide(heads: int = HEADS) -> Callable[..., Tensor]:
    weights = slide_weights(heads, DIM, 3)
    return lambda q, k, v: ops.slide_attention(q, k, v, *weights, kernel_size=3)


OPERATORS = {"local 7x7": local, "slide 3x3": slide}
Time = Callable[[dict], dict]


def rate(time: Time) -> Iterator[Figure]:
    """Forward against the matrix multiply, backward against forward."""
    square = torch.randn(1536, 1536)
    made = {name: calls(make()) for name, make in OPERATORS.items()}
    runs: dict = {"peak": lambda: square @ square}
    for name, both in made.items():
        runs[name, 0], runs[name, 1] = both
    seconds = time(runs)
    peak = 2 * len(square) ** 3 / seconds["peak"]
    for name in OPERATORS:
        share = flops(name, LARGE, 7, 3) / seconds[name, 0] / peak
        yield Figure(f"{name}, share of the matrix multiply's rate", share, 0.58, at_least=True)
        yield Figure(f"{name}, backward / forward", seconds[name, 1] / seconds[name, 0], 3.0)


def options(time: Time) -> Iterator[Figure]:
    """Relative-position bias and dilation against plain."""
    made = {
        "plain": calls(local()),
        "bias": calls(local(bias=torch.randn(HEADS, 13, 13))),
        "dilation 2": calls(local(dilation=2)),
        "dilation 4": calls(local(dilation=4)),
    }
    yield from compared(time, made, "local 7x7, {} / plain, {}", 1.10)


def precision(time: Time) -> Iterator[Figure]:
    """Bfloat16 storage against float32."""
    for name, make in OPERATORS.items():
        made = {"float32": calls(make()), "bfloat16": calls(make(), dtype=torch.bfloat16)}
        yield from compared(time, made, f"{name}, {{}} / float32, {{}}", 1.0)


def compared(time: Time, made: dict[str, Calls], words: str, bound: float) -> Iterator[Figure]:
    """Times over those of the first, both ways."""
    seconds = time({(name, i): run for name, both in made.items() for i, run in enumerate(both)})
    first, *others = made
    for name in others:
        for i, way in enumerate(Calls._fields):
            ratio = seconds[name, i] / seconds[first, i]
            yield Figure(words.format(name, way), ratio, bound)


def small(time: Time) -> Iterator[Figure]:
    """Time a pixel of small maps, and of one image, against that of four of 56x56."""
    sizes = {
        "16 of 7x7": (16, 7, 7, HEADS, DIM),
        "16 of 14x14": (16, 14, 14, HEADS, DIM),
        "1 of 56x56": (1, 56, 56, HEADS, DIM),
    }
    for name, make in OPERATORS.items():
        runs = {label: calls(make(), size).forward for label, size in sizes.items()}
        seconds = time({"large": calls(make()).forward, **runs})
        large = seconds["large"] / pixels(LARGE)
        for label, size in sizes.items():
            ratio = seconds[label] / pixels(size) / large
            yield Figure(f"{name}, a pixel of {label} / of 4 of 56x56", ratio, 1.5)


def pixels(size: tuple[int, ...]) -> int:
    return size[0] * size[1] * size[2]


def overhead(time: Time) -> Iterator[Figure]:
    """What a call takes that has next to nothing to compute."""
    tiny, repeated = (1, 1, 1, 1, 8), 100
    weights = slide_weights(1, 8, 1)
    runs = {
        "local": calls(local(kernel_size=1), tiny, repeated=repeated).forward,
        "slide": calls(
            lambda q, k, v: ops.slide_attention(q, k, v, *weights, kernel_size=1),
            tiny,
            repeated=repeated,
        ).forward,
        "window": calls(partial(ops.window_attention, window_size=1), tiny, repeated=repeated)[0],
    }
    for name, seconds in time(runs).items():
        yield Figure(f"{name}, a call on one pixel, µs", 1e6 * seconds / repeated, 12)


def windows(time: Time) -> Iterator[Figure]:
    """Window attention with bias and shift against Swin's own steps with SDPA."""
    bias = torch.randn(HEADS, 49, 49)
    ours = partial(ops.window_attention, window_size=7, shift_size=3, bias=bias)
    made = {"ours": calls(ours), "SDPA": calls(partial(by_biased_windows, shift=3, bias=bias))}
    seconds = time({(name, i): run for name, both in made.items() for i, run in enumerate(both)})
    for i, way in enumerate(Calls._fields):
        ratio = seconds["SDPA", i] / seconds["ours", i]
        yield Figure(f"window 7x7, bias and shift, SDPA / ours, {way}", ratio, 1.5, at_least=True)


def growth(time: Time) -> Iterator[Figure]:
    """Time a pixel of 896x896 against that of 112x112, one image."""
    sizes = {side: (1, side, side, 1, DIM) for side in (112, 896)}
    for name, make in {"local 7x7": local, "slide 3x3": lambda: slide(1)}.items():
        seconds = time({side: calls(make(), size).forward for side, size in sizes.items()})
        ratio = seconds[896] / pixels(sizes[896]) / (seconds[112] / pixels(sizes[112]))
        yield Figure(f"{name}, a pixel of 896x896 / of 112x112", ratio, 1.1)


def cores(time: Time) -> Iterator[Figure]:
    """Two threads against one."""

    def on(threads: int, run: Run) -> None:
        torch.set_num_threads(threads)
        run()

    before = torch.get_num_threads()
    runs = {}
    for name, make in OPERATORS.items():
        for way, run in zip(Calls._fields, calls(make()), strict=True):
            runs |= {(name, way, count): partial(on, count, run) for count in (1, 2)}
    seconds = time(runs)
    torch.set_num_threads(before)
    for name in OPERATORS:
        for way in Calls._fields:
            gain = seconds[name, way, 1] / seconds[name, way, 2]
            yield Figure(f"{name}, {way}, one core / two", gain, 1.85, at_least=True)


GOALS = {
    goal.__name__: goal
    for goal in (rate, options, precision, small, overhead, windows, growth, cores)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=", ".join(GOALS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--least", action="store_true", help="least of the times, not the median")
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    unknown = [name for name in given.goals if name not in GOALS]
    if unknown:
        parser.error(f"no goal is named {', '.join(unknown)}; there are {', '.join(GOALS)}")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)

    def time(runs: dict) -> dict:
        return least(runs, given.repetitions) if given.least else {
            name: seconds.warm for name, seconds in timed(runs, given.repetitions).items()
        }  # fmt: skip

    print(machine())
    rows = []
    for name in given.goals or GOALS:
        for figure in GOALS[name](time):
            sign = ">=" if figure.at_least else "<="
            reached = "reached" if figure.reached else "missed"
            print(f"{figure.name:58} {figure.value:7.2f}  {sign} {figure.bound:5.2f}  {reached}")
            rows.append({**figure._asdict(), "reached": figure.reached})
    if given.save:
        print(save("operators", {"least": given.least, "rows": rows}))


if __name__ == "__main__":
    main()
