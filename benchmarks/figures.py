"""Attention operators beside their peers: what is kept of each, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.measure import Seconds

Result = dict[str, Any]

TIMES = {
    "forward_ms": "forward, ms",
    "forward_cold_ms": "cold",
    "training_ms": "forward + backward, ms",
    "training_cold_ms": "cold",
}


def flops(name: str, size: tuple[int, ...], kernel: int, slide_kernel: int) -> int:
    """Those of the products with keys and values (two a multiply-add), for all peers alike.

    The keys and values of slide attention are themselves sums over the kernel.
    """
    taps = slide_kernel**4 if "slide" in name else kernel**2
    return 2 * 2 * taps * math.prod(size)


def figures(
    names: Iterable[str],
    seconds: dict[str, Seconds],
    peak: float,
    memory: Callable[[str], int],
    size: tuple[int, ...],
    kernel: int,
    slide_kernel: int,
    dtype: torch.dtype,
) -> Result:
    """What ``local_attention`` and ``gpu`` keep.

    Args:
        names: the contestants'; one without a forward time is left out.
        seconds: by ``"NAME forward"`` and ``"NAME training"`` (forward and backward).
        peak: FLOP/s of a large matrix multiply.
        memory: bytes beyond q, k, v that a run needs, by the same names.
        size: (B, H, W, heads, D).
        kernel: side of local attention's.
        slide_kernel: that of slide attention's.
        dtype: of q, k, v.
    """
    maps_bytes = 2 * 3 * math.prod(size) * dtype.itemsize
    rows = []
    for name in names:
        forward, training = (seconds.get(f"{name} {way}") for way in ("forward", "training"))
        if forward is None:
            continue
        rate = flops(name, size, kernel, slide_kernel) / forward.warm
        rows.append(
            {
                "name": name,
                "forward_ms": 1e3 * forward.warm,
                "forward_cold_ms": forward.cold and 1e3 * forward.cold,
                "training_ms": training and 1e3 * training.warm,
                "training_cold_ms": training and training.cold and 1e3 * training.cold,
                "gflops": rate / 1e9,
                "share_of_peak": rate / peak,
                "extra_memory": training and memory(f"{name} training") / maps_bytes,
            }
        )
    return {
        "size": list(size),
        "dtype": str(dtype).removeprefix("torch."),
        "peak_gflops": peak / 1e9,
        "maps_and_gradients_bytes": maps_bytes,
        "rows": rows,
    }


def table(result: Result) -> str:
    """The figures as Markdown; the peers of slide attention are compared with it."""
    batch, height, width, heads, dim = result["size"]
    rows = result["rows"]
    local, slide = (
        next(row for row in rows if row["name"].startswith(kind)) for kind in ("local", "slide")
    )
    times = [key for key in TIMES if rows[0][key]]
    titles = ["", *(title for key in times for title in (TIMES[key], "times ours"))]
    titles += ["GFLOP/s, forward", "of peak", "extra memory"]
    lines = [
        f"{batch} images of {height}x{width}, {heads} heads of {dim} channels, {result['dtype']}; "
        f"large matrix multiplies run at {result['peak_gflops']:,.0f} GFLOP/s.",
        "",
        "| " + " | ".join(titles) + " |",
        "|---|" + "--:|" * (len(titles) - 1),
    ]
    for row in rows:
        reference = slide if "slide" in row["name"] else local
        cells = [row["name"]]
        for key in times:
            taken, own = row[key], reference[key]
            cells += [f"{taken:,.2f}", f"{taken / own:.1f}"] if taken and own else ["none", ""]
        cells += [f"{row['gflops']:,.0f}", f"{row['share_of_peak']:.0%}"]
        cells += [f"{row['extra_memory']:.2f}" if row["training_ms"] else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
