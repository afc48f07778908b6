"""How the benchmarks measure, and where their figures are kept."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from foveate.analysis.profile import device_name
from foveate.ops.native import library

# PyTorch's recorder greets on standard error unless told not to before its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

RESULTS = Path(__file__).parent / "results"


class Seconds(NamedTuple):
    """Medians over the turns of one contestant."""

    warm: float
    """Of a call that follows another of the same, as in a loop."""
    cold: float | None = None
    """Of the call before it, which finds caches and allocator as the others left them."""


def timed(
    runs: dict[Any, Callable[[], object]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, Seconds]:
    """Times of each; they take turns, so that a busy moment strikes all alike."""
    for run in runs.values():
        run(), run()
    taken: dict[Any, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            for times in taken[name]:
                start = clock()
                run()
                times.append(clock() - start)
    median = statistics.median
    return {name: Seconds(median(warm), median(cold)) for name, (cold, warm) in taken.items()}


def least(runs: dict[Any, Callable[[], object]], repetitions: int) -> dict[Any, float]:
    """The shortest time of each, in turns: what no other work of the machine disturbed."""
    for run in runs.values():
        run(), run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repetitions):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


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


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on."""
    kernels = library.instruction_set() if library.available() else library.why_not()
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "native": kernels,
    }


def save(benchmark: str, result: dict[str, Any], device: str = "cpu") -> Path:
    """Keep a result as ``results/HARDWARE/BENCHMARK.json``."""
    names = [device_name(device), *([f"{torch.get_num_threads()} threads"] * (device == "cpu"))]
    hardware = re.sub(r"[^a-z0-9]+", "_", " ".join(names).lower()).strip("_")
    path = RESULTS / hardware / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine(device), **result}, indent=1) + "\n")
    return path
