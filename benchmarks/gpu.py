"""Local and slide attention on a GPU beside what else computes them, in one process.

Everything gets the same q, k, v: views of one projection's output ``(B, H, W, 3, heads, D)``. The
contestants take turns, medians are shown. CUDA events measure the device: it is kept busy while a
contestant's kernels queue up, so that no gap between them counts. Beside them stands the rate of a
large matrix multiply in the same dtype.

FlexAttention gets its best form: queries and keys in the order of 8x16 tiles of the map, so that a
block of its mask is a tile and few blocks are partly full, and its own search over kernels. It is
timed with the reordering of the maps and, for one whose maps lie so, without.

    python -m benchmarks.gpu --save
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks.figures import figures, table
from benchmarks.measure import Seconds, machine, save
from benchmarks.peers import (
    by_depthwise,
    by_full_attention,
    by_natten,
    by_unfold,
    by_windows,
    slide_weights,
)
from foveate import ops

DEVICE = "cuda"
SIZES = {
    "local_attention": (4, 56, 56, 3, 32),
    "local_attention_batch_64": (64, 56, 56, 3, 32),
    "local_attention_large_map": (8, 224, 224, 3, 32),
    "local_attention_wide_heads": (16, 112, 112, 6, 64),
}
TILE = (8, 16)  # of the map, one block of FlexAttention's mask

Contestant = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # a function and its leaves


def in_tiles(x: Tensor) -> Tensor:
    """``(B, H, W, heads, D) -> (B, heads, N, D)``, tile after tile; the map is padded to tiles."""
    _, height, width, _, _ = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -width % TILE[1], 0, -height % TILE[0]))
    x = x.unflatten(2, (-1, TILE[1])).unflatten(1, (-1, TILE[0]))  # (B, nh, th, nw, tw, heads, D)
    return x.permute(0, 5, 1, 3, 2, 4, 6).flatten(2, 5)


def out_of_tiles(x: Tensor, height: int, width: int) -> Tensor:
    """``(B, heads, N, D) -> (B, H, W, heads, D)``, the inverse."""
    x = x.unflatten(2, (-1, -(-width // TILE[1]), *TILE))  # (B, heads, nh, nw, th, tw, D)
    return x.permute(0, 2, 4, 3, 5, 1, 6).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def mask_of_tiles(height: int, width: int, kernel: int, device: str = DEVICE) -> BlockMask:
    """The neighbourhood, for tokens in the order of :func:`in_tiles`."""
    half, cells = kernel // 2, TILE[0] * TILE[1]
    down, across = -(-height // TILE[0]), -(-width // TILE[1])

    def place(token: Tensor) -> tuple[Tensor, Tensor]:
        tile, cell = token // cells, token % cells
        row = tile // across * TILE[0] + cell // TILE[1]
        return row, tile % across * TILE[1] + cell % TILE[1]

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row, column = place(query)
        key_row, key_column = place(key)
        row, column = row.clamp(half, height - 1 - half), column.clamp(half, width - 1 - half)
        return ((row - key_row).abs() <= half) & ((column - key_column).abs() <= half)

    tokens = down * across * cells
    return create_block_mask(near, None, None, tokens, tokens, device=device, BLOCK_SIZE=cells)


def by_flex_in_tiles(height: int, width: int, kernel: int) -> dict[str, Callable[..., Tensor]]:
    """FlexAttention of maps, which it reorders, and of maps already in tiles."""
    mask = mask_of_tiles(height, width, kernel)
    attend = partial(flex_attention, block_mask=mask)

    def reorder(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return out_of_tiles(attend(*map(in_tiles, (q, k, v))), height, width)

    make = partial(torch.compile, dynamic=False, mode="max-autotune-no-cudagraphs")
    return {"from maps": make(reorder), "in tiles": make(attend)}


def contestants(maps: list[Tensor], kernel: int, slide_kernel: int) -> dict[str, Contestant]:
    """Functions and what they take, by name."""
    _, height, width, heads, dim = maps[0].shape
    leaves = tuple(x.detach().requires_grad_() for x in maps)
    tiled = tuple(in_tiles(x.detach()).contiguous().requires_grad_() for x in maps)
    name, slide_name = f"{kernel}x{kernel}", f"{slide_kernel}x{slide_kernel}"
    weights = [x.to(maps[0]) for x in slide_weights(heads, dim, slide_kernel)]
    flex = by_flex_in_tiles(height, width, kernel)
    found: dict[str, Callable[..., Tensor]] = {
        f"local {name}": partial(ops.local_attention, kernel_size=kernel),
        f"im2col {name}": partial(by_unfold, kernel=kernel),
        f"compiled FlexAttention {name}": flex["from maps"],
        f"compiled FlexAttention {name}, maps in tiles": flex["in tiles"],
        "full SDPA": by_full_attention,
        f"slide {slide_name}": lambda q, k, v: ops.slide_attention(
            q, k, v, *weights, kernel_size=slide_kernel
        ),
        f"slide {slide_name}, depthwise": partial(
            by_depthwise, weights=weights, kernel=slide_kernel
        ),
    }
    if height % kernel == width % kernel == 0:
        found[f"window SDPA {name}"] = partial(by_windows, window=kernel)
    if find_spec("natten"):
        found[f"NATTEN {name}"] = partial(by_natten, kernel=kernel)
    return {
        key: (call, tiled if key.endswith("in tiles") else leaves) for key, call in found.items()
    }


def forward(contestant: Contestant) -> Tensor:
    call, leaves = contestant
    with torch.no_grad():
        return call(*leaves)


def train(contestant: Contestant) -> tuple[Tensor, ...]:
    call, leaves = contestant
    out = call(*leaves)
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def timed(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, Seconds]:
    """Times of each on the device; one that fails is left out, and said to be."""
    taken: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            taken[name] = []
        except Exception as error:  # of one contestant: the others' figures are still wanted
            print(f"{name} is left out: {error}")
            torch.cuda.empty_cache()
    for _ in range(repetitions):
        for name, times in taken.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(5_000_000)  # some milliseconds, in which the kernels queue up
            start.record()
            runs[name]()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
    return {name: Seconds(statistics.median(times)) for name, times in taken.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that PyTorch's allocator holds at most, beyond what it held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(
    size: tuple[int, ...], kernel: int, slide_kernel: int, dtype: torch.dtype, repetitions: int
) -> dict:
    torch.manual_seed(0)
    batch, height, width, heads, dim = size
    maps = torch.randn(batch, height, width, 3, heads, dim, device=DEVICE, dtype=dtype).unbind(3)
    found = contestants(list(maps), kernel, slide_kernel)
    square = torch.randn(8192, 8192, device=DEVICE, dtype=dtype)
    runs: dict[str, Callable[[], object]] = {"peak": lambda: square @ square}
    for name, contestant in found.items():
        runs[f"{name} forward"] = partial(forward, contestant)
        runs[f"{name} training"] = partial(train, contestant)
    seconds = timed(runs, repetitions)
    peak = 2 * len(square) ** 3 / seconds["peak"].warm
    return figures(
        found,
        seconds,
        peak,
        lambda name: peak_memory(runs[name]),
        size,
        kernel,
        slide_kernel,
        dtype,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--slide-kernel", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this measures a GPU, and PyTorch sees none")
    print(machine(DEVICE))
    for name in given.sizes:
        result = measure(
            SIZES[name], given.kernel, given.slide_kernel, getattr(torch, given.dtype),
            given.repetitions,
        )  # fmt: skip
        print(f"\n{table(result)}", flush=True)
        if given.save:
            save(name, result, DEVICE)


if __name__ == "__main__":
    main()
