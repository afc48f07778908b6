"""How a training goes, shown: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from foveate.metrics import Metric
from foveate.study.numbers import show_value
from foveate.study.progress import show_duration
from foveate.training import EpochRecord, Progress


class Shown(AbstractContextManager["Shown"]):
    """Lines, and on a terminal a bar with what is left.

    Args:
        epochs: of the training.
        metric: that each epoch is told by.
    """

    def __init__(self, epochs: int, metric: Metric) -> None:
        self.epochs, self.metric = epochs, metric
        self._begun: tuple[float, float] | None = None
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Shown:
        if sys.stdout.isatty():
            columns = TextColumn("{task.description}"), BarColumn(bar_width=28)
            note = TextColumn("{task.fields[note]}")
            self._bars = Bars(*columns, MofNCompleteColumn(), note, console=Console())
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Something worth a line."""
        if self._bars is None:
            print(text, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def images(self, done: int, total: int) -> None:
        """``done`` of ``total`` images have been read."""
        self._bar("images", done, total, "")

    def images_done(self) -> None:
        """No more are read."""
        if self._bars is not None and "images" in self._tasks:
            self._bars.remove_task(self._tasks.pop("images"))

    def __call__(self, event: Progress | EpochRecord) -> None:
        """Take in where a training is."""
        if isinstance(event, Progress):
            done = event.epoch + event.batch / event.batches
            left = self._left(done)
            at = event.epoch * event.batches + event.batch
            self._bar("training", at, self.epochs * event.batches, left)
            return
        left = self._left(float(event.epoch))
        found = show_value(event.values[self.metric.name], self.metric)
        loss = event.values["train_loss"]
        self.say(
            f"epoch {event.epoch}/{self.epochs}: training loss {loss:.3f}, "
            f"{self.metric.words} {found} ({event.seconds:.1f} s){left and ', ' + left}"
        )

    def _left(self, done: float) -> str:
        """What is left at the speed so far; nothing where there is none yet, or nothing left."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
            return ""
        since, before = self._begun
        if done - before < 0.02 * self.epochs or done >= self.epochs:
            return ""
        seconds = (self.epochs - done) * (now - since) / (done - before)
        return f"about {show_duration(seconds)} left"

    def _bar(self, name: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note="")
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)
