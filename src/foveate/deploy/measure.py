"""What a model costs in several runtimes, measured in turn on the same machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from foveate.analysis.profile import interleaved, quartiles
from foveate.arguments import nearest, positive
from foveate.deploy._memory import command
from foveate.deploy._runtimes import RUNTIMES
from foveate.deploy.export import FORMATS, export
from foveate.deploy.program import ExportError, as_exported, copied, images_of
from foveate.deploy.request import Request

_LEAST = 10  # rounds


@dataclass(frozen=True)
class RuntimeProfile:
    """What one image costs in one runtime, in float32.

    Attributes:
        runtime: its name.
        latency_ms: median wall time of one image; None where it does not run there.
        latency_p25_ms: its lower quartile.
        latency_p75_ms: its upper quartile.
        peak_memory: bytes that a process of its own grew by, at its peak, for loading the model and
            running it; None where the system does not tell.
        file_bytes: of the file; in PyTorch, of the parameters and buffers.
        difference: largest relative difference from the model.
        threads: that each was given.
        note: why it does not run; empty if it does.
    """

    runtime: str
    latency_ms: float | None = None
    latency_p25_ms: float | None = None
    latency_p75_ms: float | None = None
    peak_memory: int | None = None
    file_bytes: int | None = None
    difference: float | None = None
    threads: int = 1
    note: str = ""

    def texts(self) -> tuple[str, str, str, str]:
        """Latency with its quartiles, peak memory, file and difference, with units."""
        latency = "-"
        if self.latency_ms is not None:
            low, high = self.latency_p25_ms, self.latency_p75_ms
            latency = f"{self.latency_ms:.2f} ms ({low:.2f} to {high:.2f})"
        memory, file = (
            "-" if count is None else f"{count / 2**20:,.1f} MiB"
            for count in (self.peak_memory, self.file_bytes)
        )
        return latency, memory, file, "-" if self.difference is None else f"{self.difference:.1e}"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON."""
        return asdict(self)


def profile_runtimes(
    model: nn.Module,
    runtimes: Sequence[str],
    size: tuple[int, int],
    *,
    channels: int = 3,
    threads: int = 1,
    seconds: float = 10,
) -> list[RuntimeProfile]:
    """Measure ``model`` on one image in each runtime, in rounds that take each in turn.

    Files are exported at this size alone and checked as :func:`foveate.export` does.

    Args:
        model: to measure; PyTorch runs it as it is, in evaluation mode, the others its fused form.
        runtimes: ``"torch"``, ``"onnxruntime"``, ``"openvino"``, ``"executorch"``, ``"litert"``.
        size: height and width of the image.
        channels: of the image.
        threads: that each runtime may use.
        seconds: to measure for, all runtimes together.

    Returns:
        One record a runtime. One that cannot run the model says why.

    Raises:
        ValueError: if a runtime is unknown.
        ModuleNotFoundError: if its packages are missing; the extra is named.
    """
    positive(threads, "threads")
    for name in runtimes:
        if name not in RUNTIMES:
            known = ", ".join(RUNTIMES)
            raise ValueError(f"runtimes are {known}; got {name!r}{nearest(name, list(RUNTIMES))}")
        if RUNTIMES[name]:
            FORMATS[RUNTIMES[name]].check_installed()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with TemporaryDirectory() as folder, torch.inference_mode():
            request = Request(size, channels)
            made = [_Candidate(name, model, request, Path(folder), threads) for name in runtimes]
            calls = {each.name: each.call for each in made if each.call is not None}
            passes = interleaved(calls, seconds, least=_LEAST) if calls else {}
            times = {name: quartiles(each.ms) for name, each in passes.items()}
            return [each.profile(times.get(each.name)) for each in made]
    finally:
        torch.set_num_threads(before)


class _Candidate:
    """A model in one runtime, ready to be called."""

    def __init__(
        self, name: str, model: nn.Module, request: Request, folder: Path, threads: int
    ) -> None:
        self.name, self.request, self.threads = name, request, threads
        self.format = RUNTIMES[name]
        suffix = FORMATS[self.format].suffix if self.format else ".pt"
        self.path = folder / f"model{suffix}"
        self.call: Callable[[], Any] | None = None
        self.note, self.difference = "", None
        self.file_bytes: int | None = None
        try:
            run = self._written(model) if self.format else self._kept(model)
        except ExportError as error:
            self.note = str(error)
            return
        images = images_of(request.stated, request)
        self.call = lambda: run(images)

    def _kept(self, model: nn.Module) -> Callable[[Tensor], Any]:
        """The model as it is; a copy of it lies in a file for the process that tells its memory."""
        whole = as_exported(copied(model))
        torch.save(whole, self.path)
        self.file_bytes = sum(value.nbytes for value in whole.state_dict().values())
        return whole

    def _written(self, model: nn.Module) -> Callable[[Tensor], Any]:
        size, channels = self.request.size, self.request.channels
        with torch.inference_mode(False):
            result = export(model, self.path, size=size, dynamic=(), channels=channels)
        self.file_bytes, self.difference = result.bytes, result.difference
        return FORMATS[self.format].open(self.path, self.threads)

    def profile(self, times: tuple[float, float, float] | None) -> RuntimeProfile:
        """With the quartiles of its times; None where it does not run."""
        if times is None:
            return RuntimeProfile(self.name, threads=self.threads, note=self.note)
        lower, median, upper = times
        return RuntimeProfile(
            runtime=self.name,
            latency_ms=median,
            latency_p25_ms=lower,
            latency_p75_ms=upper,
            peak_memory=self._memory(),
            file_bytes=self.file_bytes,
            difference=self.difference,
            threads=self.threads,
        )

    def _memory(self) -> int | None:
        done = subprocess.run(
            command(self.format, self.path, self.request, self.threads),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stdout.split()
        return int(lines[-1]) if not done.returncode and lines and lines[-1].isdigit() else None
