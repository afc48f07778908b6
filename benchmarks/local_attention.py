"""Local attention beside what else computes it, in one process: time, rate and memory.

Everything gets the same q, k, v: views of one projection's output ``(B, H, W, 3, heads, D)``. The
repetitions of all contestants are interleaved, so that a busy moment strikes all alike; medians
are shown. ``peak`` is the float32 rate of a large matrix multiply on the same threads.

    python benchmarks/local_attention.py --json local.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from foveate import ops
from foveate.ops.native import library

Maps = Sequence[Tensor]  # q, k, v: (B, H, W, heads, D)


def by_unfold(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    """im2col: every query's keys and values side by side in memory; zero padding."""
    batch, height, width, heads, dim = q.shape

    def windows(x: Tensor) -> Tensor:
        x = x.flatten(3).permute(0, 3, 1, 2)
        x = F.unfold(x, kernel, padding=kernel // 2)
        return x.view(batch, heads, dim, kernel * kernel, height * width)

    query = q.flatten(3).permute(0, 3, 1, 2).reshape(batch, heads, dim, 1, height * width)
    logits = (query * dim**-0.5 * windows(k)).sum(2)  # (B, h, k*k, N)
    out = (logits.softmax(2).unsqueeze(2) * windows(v)).sum(3)
    return out.view(batch, heads, dim, height, width).permute(0, 3, 4, 1, 2)


def by_flex(height: int, width: int, kernel: int) -> Callable[..., Tensor]:
    """Compiled FlexAttention whose block mask is the neighbourhood."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half = kernel // 2

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = (query // width).clamp(half, height - 1 - half)
        column = (query % width).clamp(half, width - 1 - half)
        return ((row - key // width).abs() <= half) & ((column - key % width).abs() <= half)

    mask = create_block_mask(near, None, None, height * width, height * width, device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask)

    return attend


def by_windows(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Swin's window attention through SDPA: each query sees its window, wherever it stands."""
    batch, height, width, heads, dim = q.shape

    def partition(x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).permute(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(-1, heads, window * window, dim)

    out = F.scaled_dot_product_attention(*(partition(x) for x in (q, k, v)))
    out = out.view(batch, height // window, width // window, heads, window, window, dim)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, dim)


def slide_weights(heads: int, dim: int, kernel: int) -> list[Tensor]:
    """The fused slide operator's depthwise kernels and biases, for keys and for values."""
    slots = kernel * kernel
    weight = torch.eye(slots).unsqueeze(-1).repeat(1, 1, dim)
    return [
        x
        for _ in range(2)
        for x in (weight + 0.1 * torch.randn_like(weight), 0.1 * torch.randn(heads, slots, dim))
    ]


def by_depthwise(q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor], kernel: int) -> Tensor:
    """Slide attention in its published form: depthwise convolutions make all shifted maps."""
    batch, height, width, heads, dim = q.shape
    slots = kernel * kernel

    def shifted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.permute(0, 3, 4, 1, 2).reshape(batch * heads, dim, height, width)
        filters = weight.permute(2, 0, 1).reshape(dim * slots, 1, kernel, kernel)
        x = F.conv2d(x, filters, padding=kernel // 2, groups=dim)
        x = x.view(batch, heads, dim, slots, height, width)
        return x + bias.transpose(1, 2)[:, :, :, None, None]

    query = q.permute(0, 3, 4, 1, 2).unsqueeze(3) * dim**-0.5
    logits = (query * shifted(k, *weights[:2])).sum(2, keepdim=True)
    out = (logits.softmax(3) * shifted(v, *weights[2:])).sum(3)
    return out.permute(0, 3, 4, 1, 2)


def contestants(size: tuple[int, ...], kernel: int, slide_kernel: int) -> dict[str, Callable]:
    """Functions of q, k, v by name."""
    _, height, width, heads, dim = size
    found: dict[str, Callable] = {
        f"local {kernel}x{kernel}": partial(ops.local_attention, kernel_size=kernel),
        f"im2col {kernel}x{kernel}": partial(by_unfold, kernel=kernel),
        f"compiled FlexAttention {kernel}x{kernel}": by_flex(height, width, kernel),
        f"window SDPA {kernel}x{kernel}": partial(by_windows, window=kernel),
    }
    weights = slide_weights(heads, dim, slide_kernel)
    name = f"{slide_kernel}x{slide_kernel}"
    if hasattr(ops, "slide_attention"):
        found[f"slide {name}"] = lambda q, k, v: ops.slide_attention(
            q, k, v, *weights, kernel_size=slide_kernel
        )
    found[f"slide {name}, depthwise"] = partial(by_depthwise, weights=weights, kernel=slide_kernel)
    return found


def training(function: Callable, maps: Maps, grad: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(*maps), maps, grad)


def timed(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each, one repetition of all after the other."""
    for run in runs.values():
        run(), run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that PyTorch's allocator holds at most, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = run()
        del result
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def measure(size: tuple[int, ...], kernel: int, slide_kernel: int, repetitions: int) -> dict:
    torch.manual_seed(0)
    batch, height, width, heads, dim = size
    with torch.no_grad():
        maps = torch.randn(batch, height, width, 3, heads, dim).unbind(3)
    leaves = [x.detach().requires_grad_() for x in maps]
    grad = torch.randn(size)
    functions = contestants(size, kernel, slide_kernel)
    square = torch.randn(1536, 1536)

    def forward(function: Callable) -> object:
        with torch.no_grad():
            return function(*maps)

    runs: dict[str, Callable[[], object]] = {"peak": lambda: square @ square}
    for name, function in functions.items():
        runs[f"{name} forward"] = partial(forward, function)
        if "Flex" not in name:  # no backward on CPUs
            runs[f"{name} training"] = training(function, leaves, grad)
    seconds = timed(runs, repetitions)

    peak = 2 * len(square) ** 3 / seconds["peak"]
    maps_bytes = 2 * sum(x.numel() * x.element_size() for x in leaves)
    rows = []
    for name in functions:
        taps = slide_kernel**2 if "slide" in name else kernel**2
        products = 2 * taps * (taps if "slide" in name else 1)  # of one query and channel
        flops = 2 * products * grad.numel()
        both = seconds.get(f"{name} training")
        rows.append(
            {
                "name": name,
                "forward_ms": 1e3 * seconds[f"{name} forward"],
                "training_ms": both and 1e3 * both,
                "gflops": flops / seconds[f"{name} forward"] / 1e9,
                "share_of_peak": flops / seconds[f"{name} forward"] / peak,
                "extra_memory": both and peak_memory(runs[f"{name} training"]) / maps_bytes,
            }
        )
    return {
        "size": list(size),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "native": library.instruction_set() if library.available() else library.why_not(),
        "peak_gflops": peak / 1e9,
        "maps_and_gradients_bytes": maps_bytes,
        "rows": rows,
    }


def table(result: dict) -> str:
    batch, height, width, heads, dim = result["size"]
    ours = result["rows"][0]
    lines = [
        f"{batch} images {height}x{width}, {heads} heads of {dim}, float32, "
        f"{result['threads']} threads, native kernels: {result['native']}",
        f"matrix multiply: {result['peak_gflops']:.0f} GFLOP/s",
        "",
        "| | forward, ms | times ours | forward + backward, ms | times ours | GFLOP/s, forward "
        "| of peak | extra memory / (q, k, v and gradients) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        training = row["training_ms"]
        cells = [
            row["name"],
            f"{row['forward_ms']:.2f}",
            f"{row['forward_ms'] / ours['forward_ms']:.1f}",
            f"{training:.1f}" if training else "none on CPUs",
            f"{training / ours['training_ms']:.1f}" if training else "",
            f"{row['gflops']:.0f}",
            f"{row['share_of_peak']:.0%}",
            f"{row['extra_memory']:.2f}" if training else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "GFLOP/s count the taps' products alone (two a multiply-add), for all alike."]
    return "\n".join(lines)


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
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    size = (given.batch, given.height, given.width, given.heads, given.dim)
    result = measure(size, given.kernel, given.slide_kernel, given.repetitions)
    print(table(result))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
