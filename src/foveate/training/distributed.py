"""One training in several processes: which, how they begin, what each has, how they end.

A process stands for a device. They begin in one of three ways: by ``torchrun`` (on one machine or
on many), by a cluster's own means that Lightning knows (SLURM), or, where neither is the case, by
Lightning, which runs the same command again for each further device.

    numbers(P processes, batches of B) = numbers(one process, batches of B)       to rounding

since a batch is that of all processes together: each has its part of the same images in the same
order, augmented as they would be in one, losses are divided by what all of them count
(:mod:`foveate._distributed`), and gradients are averaged. Not the same are what layers and tasks
draw at random while they learn (dropout, mixup, regions sampled by detectors), and batch norm,
which takes its moments over each process's own images unless ``sync_batch_norm`` says otherwise;
its running statistics are averaged over processes before each evaluation.

Of the images held out each is measured once, in one of the processes, however many there are. Only
the first process writes and reports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torchmetrics import Metric as TorchMetric
from torchmetrics import MetricCollection

from foveate._processes import end_when_orphaned
from foveate.arguments import one_of, positive

_STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class Distribution:
    """Where a training runs; none of it changes what is learnt.

    Attributes:
        devices: of each machine, a process each; None for as many as ``torchrun`` started, and one
            without it.
        num_nodes: machines; None likewise.
        strategy: ``"ddp"``, every process with the whole model, or ``"fsdp"``, each with a part of
            its weights, gradients and moments (:mod:`foveate.training.sharding`).
        timeout: seconds that a process waits for another one before it gives up.
    """

    devices: int | None = None
    num_nodes: int | None = None
    strategy: str = "ddp"
    timeout: float = 600.0


class ProcessLostError(RuntimeError):
    """Another process of the training ended, or does not answer."""


def resolved(distribution: Distribution, device: str) -> Distribution:
    """``distribution`` with numbers for what it leaves open.

    Args:
        distribution: as asked for.
        device: of the recipe.

    Raises:
        ValueError: if it makes no sense, is not what ``torchrun`` started, or asks for devices that
            are not there.
    """
    one_of(distribution.strategy, _STRATEGIES, "strategy")
    if not distribution.timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds, got {distribution.timeout!r}")
    devices, nodes = distribution.devices, distribution.num_nodes
    started = _by_torchrun()
    if started is not None:
        for given, found, what in zip(
            (devices, nodes), started, ("devices", "num_nodes"), strict=True
        ):
            if given not in (None, found):
                raise ValueError(f"{what}={given}, but torchrun started {found}: leave {what} out")
        devices, nodes = started
    devices = positive(1 if devices is None else devices, "devices")
    nodes = positive(1 if nodes is None else nodes, "num_nodes")
    _check_devices(device, devices)
    if distribution.strategy == "fsdp" and devices * nodes == 1:
        raise ValueError(
            "strategy='fsdp' shares a model among devices, and there is one: give more"
        )
    return Distribution(devices, nodes, distribution.strategy, distribution.timeout)


def _by_torchrun() -> tuple[int, int] | None:
    """Processes on this machine, and machines, if ``torchrun`` started this process."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return None
    here, all_of_them = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return here, all_of_them // here


def _check_devices(device: str, number: int) -> None:
    kind, _, index = device.partition(":")
    if index and number > 1:
        raise ValueError(f"device={device!r} is one device, and devices={number}: say {kind!r}")
    if kind == "cpu":
        return
    there = {"cuda": torch.cuda.device_count, "mps": torch.mps.device_count}.get(kind)
    if there is None:
        return
    found, wanted = there(), max(number, int(index or 0) + 1)
    if found < wanted:
        kinds = {0: f"no {kind} device", 1: f"one {kind} device"}
        asked = f"device={device!r}" + (f" with devices={number}" if number > 1 else "")
        raise ValueError(f"{asked}: this machine has {kinds.get(found, f'{found} {kind} devices')}")


def create_strategy(distribution: Distribution) -> Any:
    """Lightning's strategy for a resolved ``distribution``."""
    devices, nodes = distribution.devices or 1, distribution.num_nodes or 1
    if devices * nodes == 1:
        return "auto"
    timeout = timedelta(seconds=distribution.timeout)
    if distribution.strategy == "fsdp":
        from foveate.training.sharding import Sharded

        return Sharded(devices * nodes, timeout)
    # Buffers are averaged before evaluations. Heads may leave parts of a backbone unused.
    return DDPStrategy(timeout=timeout, broadcast_buffers=False, find_unused_parameters=True)


def share_of(batches: Any, trainer: pl.Trainer, what: str) -> Any:
    """What this process has of ``batches``.

    Raises:
        TypeError: if there are several processes, and the batches cannot be shared.
    """
    if trainer.world_size == 1:
        return batches
    if not hasattr(batches, "share"):
        raise TypeError(
            f"{what} cannot be shared among {trainer.world_size} processes: "
            f"{type(batches).__name__} has no method share(rank, world_size)"
        )
    return batches.share(trainer.global_rank, trainer.world_size)


def summed(values: Tensor) -> Tensor:
    """``values`` summed over all processes, of which there are several."""
    distributed.all_reduce(values)
    return values


def gather(evaluator: TorchMetric | MetricCollection) -> None:
    """Put what several processes measured into the evaluator of each, in the images' order."""
    several = isinstance(evaluator, MetricCollection)
    for metric in evaluator.values() if several else [evaluator]:
        # Otherwise each compute() gathers, and forgets it again.
        metric.sync_on_compute = metric._to_sync = metric._should_unsync = False
        if metric._is_synced:
            continue
        metric.sync()
        for state, default in metric._defaults.items():
            if isinstance(default, list) and isinstance(whole := getattr(metric, state), Tensor):
                setattr(metric, state, [whole])  # as it is in one process


class SharedDirectory(pl.Callback):
    """Refuses a directory that some processes see and others do not.

    Args:
        checkpoint: in it.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        there = torch.tensor(float(self.checkpoint.exists()), device=trainer.strategy.root_device)
        if summed(there).item() not in (0, trainer.world_size):
            raise ValueError(
                f"{self.checkpoint} is seen by some of {trainer.world_size} processes and not by "
                "others: give a directory that all machines share"
            )


@contextmanager
def ending_together(trainer: pl.Trainer) -> Iterator[None]:
    """Where this process fails, end those that Lightning started for it: they would wait for it."""
    try:
        yield
    except BaseException:
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            process.terminate()
        raise


_LOST = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out waiting",
)


@contextmanager
def explained(distribution: Distribution, checkpoint: Path) -> Iterator[None]:
    """Say in one line what an error of the connection between processes means.

    Raises:
        ProcessLostError: if another process is gone.
        ValueError: if the processes could not find each other.
    """
    several = (distribution.devices or 1) * (distribution.num_nodes or 1) > 1
    if several and _by_torchrun() is not None:
        end_when_orphaned()
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not several:
            raise
        if "EADDRINUSE" in text or "address already in use" in text:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise ValueError(
                f"the port of {address}, by which the processes would meet, is in use: name "
                "another one by MASTER_PORT, or none"
            ) from error
        if not isinstance(error, distributed.DistError) and not any(x in text for x in _LOST):
            raise
        after = f"from {checkpoint}" if checkpoint.exists() else "from the first epoch"
        raise ProcessLostError(
            "another process of this training ended or did not answer for "
            f"{distribution.timeout:g} s, so this one ends as well: start it again, and it goes on "
            f"{after}"
        ) from error
