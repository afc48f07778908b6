"""What a training has come to, epoch by epoch; it travels with the checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any, NamedTuple, Protocol

import lightning.pytorch as pl
import torch

from foveate.metrics import Metric


class EpochRecord(NamedTuple):
    """What an epoch came to.

    Attributes:
        epoch: from 1.
        values: ``train_loss``, other losses of the task as ``train_NAME``, and what its evaluator
            gave on the held-out images.
        seconds: of training and evaluation.
    """

    epoch: int
    values: dict[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """One flat dict, as files hold it."""
        return {"epoch": self.epoch, **self.values, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> EpochRecord:
        """What :meth:`to_dict` gave."""
        values = {k: v for k, v in entry.items() if k not in ("epoch", "seconds")}
        return cls(entry["epoch"], values, entry["seconds"])


class Progress(NamedTuple):
    """Where an epoch stands: ``batch`` of ``batches`` are done; ``epoch`` counts from 0."""

    epoch: int
    batch: int
    batches: int


Report = Callable[[Progress | EpochRecord], None]


class TrainingBatches(Sized, Protocol):
    """Batches to learn from, in an order that is a function of (seed, epoch).

    Iterating gives ``(images, targets)`` and first sets every random generator from
    (seed, epoch): this is what makes a training that was cut off end in the same numbers.
    """

    def __iter__(self) -> Any: ...

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, from 0, the next iteration is."""
        ...

    # Where several processes train, also ``share(rank, world_size)``: the batches of one of them,
    # a part of each of these. See :meth:`foveate.data.loading.Epochs.share`.


class DivergenceError(RuntimeError):
    """The loss is no longer a number."""


class History(pl.Callback):
    """Keeps a record an epoch, and reports them and the progress in between.

    Args:
        batches: that are learnt from; told the epoch.
        report: gets a :class:`Progress` now and then and an :class:`EpochRecord` an epoch, in the
            first process.
    """

    def __init__(self, batches: TrainingBatches, report: Report) -> None:
        self.batches, self.report = batches, report
        self.records: list[EpochRecord] = []
        self.train_seconds = 0.0
        self.images = 0
        self._start = self._trained = self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": [record.to_dict() for record in self.records],
            "train_seconds": self.train_seconds,
            "images": self.images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = [EpochRecord.from_dict(entry) for entry in state_dict["history"]]
        self.train_seconds = state_dict["train_seconds"]
        self.images = state_dict["images"]
        self.batches.set_epoch(len(self.records))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        now = time.perf_counter()
        if now - self._reported > 0.2:
            self._reported = now
            done = trainer.fit_loop.batch_idx + 1
            self._tell(trainer, Progress(trainer.current_epoch, done, trainer.num_training_batches))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._trained = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size > 1:
            pl_module.losses.over_processes()
        values = {f"train_{name}": mean for name, mean in pl_module.losses.means().items()}
        values |= pl_module.evaluation()
        epoch = len(self.records) + 1
        _check_finite(values, epoch)
        record = EpochRecord(epoch, values, time.perf_counter() - self._start)
        self.records.append(record)
        self.train_seconds += self._trained
        self.images += pl_module.losses.images
        self.batches.set_epoch(epoch)
        self._tell(trainer, record)

    def _tell(self, trainer: Any, event: Progress | EpochRecord) -> None:
        if trainer.is_global_zero:
            self.report(event)


def best_epoch(records: Sequence[EpochRecord], metric: Metric) -> int:
    """The first of the epochs with the best value of ``metric``."""
    sign = 1 if metric.higher_is_better else -1
    return max(records, key=lambda record: (sign * record.values[metric.name], -record.epoch)).epoch


def _check_finite(values: dict[str, float], epoch: int) -> None:
    """Metrics may be undefined (a class without an image); losses may not."""
    for name in ("train_loss", "loss"):
        if not math.isfinite(values.get(name, 0.0)):
            raise DivergenceError(f"the loss is not finite in epoch {epoch}")
