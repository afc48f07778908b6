"""What a forward pass costs: parameters, multiply-adds, latency and memory."""

from __future__ import annotations

import copy
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from foveate.analysis.energy import EnergyCounter
from foveate.analysis.flops import count_flops
from foveate.arguments import positive

WARM_UP = 3


@dataclass(frozen=True)
class Profile:
    """Measured cost of a module's forward pass in inference mode.

    Attributes:
        input_size: of one sample; a tuple of sizes where the module takes several inputs.
        parameters: how many numbers the module learns or keeps as parameters.
        multiply_adds: of one sample (FLOPs are twice that).
        latency_ms: median wall time of a batch, in milliseconds.
        latency_p25_ms: its lower quartile.
        latency_p75_ms: its upper quartile.
        peak_memory: largest number of bytes alive at once during the call, beyond the weights and
            the input; None where the device cannot tell.
        batch_size: samples in the batch.
        repeats: how many calls were timed.
        threads: of the CPU.
        device: its name.
    """

    input_size: tuple[Any, ...]
    parameters: int
    multiply_adds: int
    latency_ms: float
    latency_p25_ms: float
    latency_p75_ms: float
    peak_memory: int | None
    batch_size: int
    repeats: int
    threads: int
    device: str

    def texts(self) -> tuple[str, str, str, str]:
        """Parameters, multiply-adds, latency with its quartiles and peak memory, with units."""
        low, high = self.latency_p25_ms, self.latency_p75_ms
        return (
            f"{self.parameters:,}",
            f"{self.multiply_adds / 1e6:,.2f} M",
            f"{self.latency_ms:.2f} ms ({low:.2f} to {high:.2f})",
            "-" if self.peak_memory is None else f"{self.peak_memory / 2**20:,.1f} MiB",
        )

    def __str__(self) -> str:
        parameters, multiply_adds, latency, memory = self.texts()
        return (
            f"{parameters} parameters, {multiply_adds} multiply-adds, {latency} for a batch of "
            f"{self.batch_size}, peak memory {memory}; {self.device}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON."""
        return asdict(self)


def profile(
    model: nn.Module,
    input_size: Sequence[int] | Sequence[Sequence[int]] = (3, 224, 224),
    batch_size: int = 1,
    device: str | torch.device = "cpu",
    *,
    repeats: int = 30,
) -> Profile:
    """Measure ``model`` on random input of ``input_size``.

    The model is not changed: it runs in eval mode and goes back to the mode it was in, and a copy
    of it runs where ``device`` is not its own.

    Args:
        model: any module: a mechanism, or a whole model.
        input_size: of one sample, without the batch; several sizes for several inputs.
        batch_size: samples in the batch that is timed.
        device: where to run.
        repeats: how many calls to time, after a few that warm up.

    Raises:
        ValueError: if a size or count is not positive, or the device is not there.
    """
    positive(batch_size, "batch_size")
    positive(repeats, "repeats")
    sizes = _sizes(input_size)
    place = _device(device)
    model = _on(model, place)
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            return _profile(model, sizes, batch_size, place, repeats)
    finally:
        for module, mode in training.items():
            module.training = mode


def _profile(
    model: nn.Module, sizes: list[tuple[int, ...]], batch: int, device: torch.device, repeats: int
) -> Profile:
    like = next(model.parameters(), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32

    def inputs(batch: int) -> list[Tensor]:
        return [torch.randn(batch, *size, device=device, dtype=dtype) for size in sizes]

    multiply_adds = count_flops(model, *inputs(1)) // 2
    x = inputs(batch)
    with torch.inference_mode():
        times = latencies(lambda: model(*x), repeats, device)
    lower, median, upper = quartiles(times)
    return Profile(
        input_size=sizes[0] if len(sizes) == 1 else tuple(sizes),
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=multiply_adds,
        latency_ms=median,
        latency_p25_ms=lower,
        latency_p75_ms=upper,
        peak_memory=peak_memory(lambda: model(*x), device),
        batch_size=batch,
        repeats=repeats,
        threads=torch.get_num_threads(),
        device=device_name(device),
    )


def latencies(
    call: Callable[[], Any], repeats: int, device: str | torch.device = "cpu"
) -> list[float]:
    """Milliseconds of each of ``repeats`` calls, after some that warm up."""
    device = torch.device(device)
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        call()
        _synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return times


class Passes(NamedTuple):
    """Calls of one kind that were measured.

    Attributes:
        ms: milliseconds of each.
        joules: of all of them; None without a counter.
    """

    ms: list[float]
    joules: float | None


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    device: str | torch.device = "cpu",
    *,
    least: int = 5,
    seed: int = 0,
) -> dict[str, Passes]:
    """Measure several calls in rounds, so that what the machine does meanwhile meets all alike.

    A round makes each call once, in an order of its own. Rounds go on until ``seconds`` are over,
    and there are at least ``least``, after one that warms up.

    Args:
        calls: by name.
        seconds: for all of them together.
        device: where they run.
        least: rounds, even if they take longer.
        seed: of the orders.
    """
    device, counter, chance = torch.device(device), EnergyCounter(), random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in calls}
    joules = dict.fromkeys(calls, 0.0)
    order = list(calls)
    for name in order:
        calls[name]()
    end = time.perf_counter() + seconds
    while len(times[order[0]]) < least or time.perf_counter() < end:
        chance.shuffle(order)
        for name in order:
            _synchronize(device)
            before, start = counter.joules(), time.perf_counter()
            calls[name]()
            _synchronize(device)
            times[name].append(1e3 * (time.perf_counter() - start))
            joules[name] += counter.joules() - before
    known = counter.available and device.type == "cpu"
    return {name: Passes(times[name], joules[name] if known else None) for name in calls}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, between order statistics (binomial, whatever the spread).

    With fewer than six values it is the range, which covers less.
    """
    ordered, count = sorted(values), len(values)
    rank = int((count - 1.96 * count**0.5) / 2)
    return ordered[max(rank - 1, 0)], ordered[min(count - rank, count - 1)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    points = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    lower, median, upper = torch.tensor(values, dtype=torch.float64).quantile(points).tolist()
    return lower, median, upper


def peak_memory(call: Callable[[], Any], device: str | torch.device = "cpu") -> int | None:
    """Largest number of bytes that ``call()`` holds at once, beyond what was there before.

    On a CPU the sum of what PyTorch's allocator gives and takes back, which repeats exactly; on an
    accelerator its own count. None where a device keeps no count.
    """
    device = torch.device(device)
    return _peak_on_cpu(call) if device.type == "cpu" else _peak_on_accelerator(call, device)


def device_name(device: str | torch.device = "cpu") -> str:
    """What the device calls itself, such as its processor's model."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor() if device.type == "cpu" else str(device)


def _peak_on_cpu(call: Callable[[], Any]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    # Kineto prints a greeting on standard error unless its log level is raised before first use.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.profiler.profile(activities=activities, profile_memory=True) as recorder:
        call()
    results = cast(Any, recorder.profiler).kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _peak_on_accelerator(call: Callable[[], Any], device: torch.device) -> int | None:
    try:
        _synchronize(device)
        torch.accelerator.reset_peak_memory_stats(device)
        before = torch.accelerator.memory_allocated(device)
        call()
        _synchronize(device)
        return torch.accelerator.max_memory_allocated(device) - before
    except RuntimeError:
        return None


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _sizes(input_size: Sequence[Any]) -> list[tuple[int, ...]]:
    if not isinstance(input_size, Sequence):
        raise ValueError(
            "input_size is that of one sample without the batch, as (64, 56, 56) for channels, "
            f"height and width; got {input_size!r}"
        )
    several = bool(input_size) and not isinstance(input_size[0], int)
    sizes = [tuple(size) for size in input_size] if several else [tuple(input_size)]
    tree_map(lambda length: positive(length, "every length in input_size"), sizes)
    return sizes


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} is not available here: {reason}") from error
    return place


def _on(model: nn.Module, device: torch.device) -> nn.Module:
    lies_on = next((p.device for p in model.parameters()), device)
    same = lies_on.type == device.type and device.index in (None, lies_on.index)
    return model if same else copy.deepcopy(model).to(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
