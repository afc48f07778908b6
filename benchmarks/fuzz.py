"""Random calls of the native operators against float64, forward and backward.

    python -m benchmarks.fuzz [--operator NAME] [--first 0] [--calls 1000]

A call is a function of its operator and seed: to go on, start at the next seed; to repeat a fault,
pass its seed as ``--first`` with ``--calls 1``. Each call draws sizes from 1 to 40, batches from
none, channels, windows, borders, dilations, masks, biases and the storage (float32, bfloat16 or
float16), runs the native kernels, and compares output and gradients with the portable form of the
same numbers in float64; sums of terms that cancel out may differ by the terms' rounding. Prints the
faults and their count; exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate import ops
from foveate.ops.window.windows import fitted

# Largest difference, relative to the largest number; half storage rounds results and gradients.
BOUNDS = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
# Kernels sum in float32: of terms that cancel out, their rounding is what is left.
ROUNDED = 32 * torch.finfo(torch.float32).eps
PROGRESS = 500
LARGEST_WINDOW = 1024  # cells, of the native kernel


class Call(NamedTuple):
    """Tensors with gradients, and what else the operator is given."""

    tensors: dict[str, Tensor]
    options: dict[str, Any]


class Fault(NamedTuple):
    """What differs in the call of a seed."""

    operator: str
    seed: int
    what: str


def draw_local(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    batch, height, width, heads, dim, values = _sizes(rng)
    border = rng.choice(("shift", "zero", "mask", "reflect"))
    kernel = [rng.randint(1, 7), rng.randint(1, 7)]
    dilation = [rng.randint(1, 3), rng.randint(1, 3)]
    for i, length in enumerate((height, width)):  # what the map allows under this border
        while border == "shift" and kernel[i] * dilation[i] > length:
            kernel[i], dilation[i] = max(1, kernel[i] - 1), max(1, dilation[i] - 1)
        while border == "reflect" and kernel[i] // 2 * dilation[i] >= length:
            kernel[i], dilation[i] = max(1, kernel[i] - 1), max(1, dilation[i] - 1)
    tensors = _maps(draw, batch, height, width, heads, dim, values)
    bias = rng.choice((None, "table", "each"))
    if bias == "table":
        tensors["bias"] = draw(heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1)
    elif bias == "each":
        tensors["bias"] = draw(batch, height, width, heads, *kernel)
    options: dict[str, Any] = {
        "kernel_size": tuple(kernel), "dilation": tuple(dilation), "border": border
    }  # fmt: skip
    if rng.random() < 0.4:
        options["key_mask"] = draw(batch, height, width) > rng.choice((-1.0, 0.0, 2.0))
    return Call(tensors, options)


def draw_slide(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    batch, height, width, heads, dim, values = _sizes(rng)
    kernel = rng.randint(1, 4), rng.randint(1, 4)
    taps = kernel[0] * kernel[1]
    tensors = _maps(draw, batch, height, width, heads, dim, values)
    tensors |= {
        "key_weight": draw(taps, taps, dim),
        "key_bias": draw(rng.choice((1, heads)), taps, dim),
        "value_weight": draw(taps, taps, values),
        "value_bias": draw(rng.choice((1, heads)), taps, values),
    }
    return Call(tensors, {"kernel_size": kernel})


def draw_window(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    batch, height, width, heads, dim, values = _sizes(rng)
    window = tuple(rng.choice((None, rng.randint(1, 9))) for _ in range(2))
    size = fitted((height, width), window)
    if size[0] * size[1] > LARGEST_WINDOW:
        window, size = (7, 7), fitted((height, width), (7, 7))
    tensors = _maps(draw, batch, height, width, heads, dim, values)
    if rng.random() < 0.5 and size[0] * size[1] <= 400:
        tensors["bias"] = draw(heads, size[0] * size[1], size[0] * size[1])
    options: dict[str, Any] = {"window_size": window, "spread": rng.random() < 0.3}
    if not options["spread"]:
        options["shift_size"] = tuple(rng.randrange(side) for side in size)
    return Call(tensors, options)


def _draw_taps(rng: random.Random) -> dict[str, Any]:
    return {
        "kernel_size": (rng.randint(1, 7), rng.randint(1, 7)),
        "dilation": (rng.randint(1, 3), rng.randint(1, 3)),
        "border": rng.choice(("zero", "reflect")),
    }


def draw_aggregate(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    batch, height, width, share, groups, _ = _sizes(rng)
    share, groups = rng.choice(((share, groups), (groups, share), (8, 2**share)))
    options = _draw_taps(rng) | {"normalize": rng.random() < 0.5}
    taps = options["kernel_size"][0] * options["kernel_size"][1]
    tensors = {"values": draw(batch, height, width, share, groups)}
    weights = draw(batch, height, width, taps, groups)
    if rng.random() < 0.3:
        weights = weights.mT.contiguous().mT
    return Call(tensors | {"weights": weights}, options)


def draw_relation(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    batch, height, width, _, dim, _ = _sizes(rng)
    options = _draw_taps(rng) | {"relation": rng.choice(("difference", "concatenation"))}
    size = (batch, height, width, dim)
    tensors = {"q": draw(*size), "k": draw(*size)}
    if rng.random() < 0.5:
        taps = options["kernel_size"][0] * options["kernel_size"][1]
        count = dim * (1 + taps) if options["relation"] == "concatenation" else dim
        # Far from where the activation bends: there the storage would decide about gradients.
        tensors |= {"scale": draw(count), "shift": rng.choice((-1, 1)) * (50 + draw(count).abs())}
    return Call(tensors, options)


def draw_axis_pool(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    axes = rng.sample(("channels", "height", "width"), rng.randint(1, 3))
    return Call({"x": _map(rng, draw)}, {"axes": axes, "largest": rng.random() < 0.7})


def draw_scale(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    x, combination = _map(rng, draw), rng.choice(("product", "mean", "sign"))
    names = ("first", "second", "third")[: 2 if combination == "sign" else rng.randint(1, 3)]
    sizes = {name: [rng.choice((1, n)) for n in x.shape[1:]] for name in names}
    factors = {name: draw(x.shape[0], *size) for name, size in sizes.items()}
    return Call({"x": x, **factors}, {"combination": combination})


def draw_narrow_conv(rng: random.Random, draw: Callable[..., Tensor]) -> Call:
    channels, kernel = [rng.randint(1, 4) for _ in range(2)], [rng.randrange(1, 12, 2), 1]
    rng.shuffle(kernel)
    if rng.random() < 0.7:
        kernel = [rng.choice((3, 5, 7)), rng.choice((3, 5, 7))]
    batch, height, width, *_ = _sizes(rng)
    x = draw(batch, channels[0], height, width * rng.randint(1, 4))
    return Call({"x": x, "weight": draw(channels[1], channels[0], *kernel)}, {})


def _planes(**given: Any) -> Tensor:
    """The planes of axis pooling, one after the other."""
    return torch.cat([plane.flatten(1) for plane in ops.axis_pool(**given)], 1)


OPERATORS = {
    "local": (ops.local_attention, draw_local),
    "slide": (ops.slide_attention, draw_slide),
    "window": (ops.window_attention, draw_window),
    "aggregate": (ops.local_aggregate, draw_aggregate),
    "relation": (ops.local_relation, draw_relation),
    "axis_pool": (_planes, draw_axis_pool),
    "scale": (ops.scale, draw_scale),
    "narrow_conv": (ops.narrow_conv, draw_narrow_conv),
}
FLOAT32_ALONE = ("axis_pool", "scale", "narrow_conv")


def fault(operator: str, seed: int) -> Fault | None:
    """What is wrong with the call of this seed; None if nothing is."""
    function, draw_call = OPERATORS[operator]
    rng = random.Random(f"{operator} {seed}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    dtype = rng.choice(tuple(BOUNDS)) if operator not in FLOAT32_ALONE else torch.float32

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    call = draw_call(rng, draw)
    try:
        coming = _coming(function, call, dtype)
        actual = _run(function, call, dtype, "native", coming)
        expected = _run(function, call, torch.float64, "portable", coming)
        terms = _run(function, call, torch.float64, "portable", coming.abs())
    except (RuntimeError, ValueError) as error:
        return Fault(operator, seed, f"{type(error).__name__}: {error}")
    for name, a in actual.items():
        b = expected[name]
        if a.shape != b.shape:
            return Fault(operator, seed, f"{name} has shape {tuple(a.shape)}, not {tuple(b.shape)}")
        if a.numel() == 0:
            continue
        error = (a.double() - b).abs().max().item()
        bound = BOUNDS[dtype] * max(1.0, b.abs().max().item())
        bound += ROUNDED * terms[name].abs().max().item()
        if not error <= bound:  # a NaN is a fault
            return Fault(operator, seed, f"{name} differs by {error:.3g}, more than {bound:.3g}")
    return None


def faults(operator: str, first: int, calls: int) -> Iterator[Fault]:
    """The faults of so many seeds, in order."""
    for seed in range(first, first + calls):
        if seed > first and seed % PROGRESS == 0:
            print(f"{operator}: up to seed {seed}", file=sys.stderr, flush=True)
        found = fault(operator, seed)
        if found is not None:
            yield found


def _coming(function: Callable[..., Tensor], call: Call, dtype: torch.dtype) -> Tensor:
    """A gradient of the output, from -sin(1) to sin(1), in numbers that the storage has."""
    with ops.use_backend("portable"):
        out = function(**call.tensors, **call.options)
    wave = torch.linspace(-1, 1, max(out.numel(), 1))[: out.numel()].sin()
    return wave.view(out.shape).to(dtype)


def _run(
    function: Callable[..., Tensor],
    call: Call,
    dtype: torch.dtype,
    backend: str,
    coming: Tensor,
) -> dict[str, Tensor]:
    """The output and the gradient of every tensor, for a gradient of the output."""
    tensors = {
        name: x.detach().to(dtype, copy=True).requires_grad_() for name, x in call.tensors.items()
    }
    with ops.use_backend(backend):
        out = function(**tensors, **call.options)
        out.backward(coming.to(out.dtype))
    grads = {f"the gradient of {name}": x.grad for name, x in tensors.items()}
    return {"the output": out.detach(), **{k: g for k, g in grads.items() if g is not None}}


def _sizes(rng: random.Random) -> tuple[int, ...]:
    """Batch, height, width, heads, channels of queries and of values."""
    sides = [rng.choice((rng.randint(1, 10), rng.randint(1, 40))) for _ in range(2)]
    channels = rng.randint(1, 40)
    values = rng.choice((channels, rng.randint(1, 40)))
    return rng.choice((0, 1, 1, 2)), *sides, rng.randint(1, 3), channels, values


def _map(rng: random.Random, draw: Callable[..., Tensor]) -> Tensor:
    """``(B, C, H, W)`` in either memory format."""
    batch, height, width, _, channels, _ = _sizes(rng)
    x = draw(batch, channels, height, width)
    return x.contiguous(memory_format=torch.channels_last) if rng.random() < 0.5 else x


def _maps(
    draw: Callable[..., Tensor], batch: int, height: int, width: int, heads: int, d: int, dv: int
) -> dict[str, Tensor]:
    sizes = (batch, height, width, heads)
    return {"q": draw(*sizes, d), "k": draw(*sizes, d), "v": draw(*sizes, dv)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operator", choices=OPERATORS, action="append")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each operator")
    args = parser.parse_args()
    count = 0
    for operator in args.operator or OPERATORS:
        found = 0
        for one in faults(operator, args.first, args.calls):
            found += 1
            print(f"{one.operator}, seed {one.seed}: {one.what}", flush=True)
        last = args.first + args.calls - 1
        print(f"{operator}: {args.calls} calls, seeds {args.first} to {last}, {found} faults")
        count += found
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
