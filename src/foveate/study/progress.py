"""How a study goes, shown: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foveate.study.numbers import show_value
from foveate.study.plan import Plan
from foveate.study.records import BatchDone, EpochRecord


class ProgressLines:
    """One line for each thing that is over."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._done = self._total = 0

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Something worth a line."""
        print(text, flush=True)

    def images(self, done: int, total: int) -> None:
        """``done`` of ``total`` images have been read."""
        if done == total:
            self.say(f"read {total} images")

    def study(self, done: int, total: int) -> None:
        """``done`` of ``total`` trials were over when the study went on."""
        self._done, self._total = done, total
        if done:
            self.say(f"{done} of {total} trials were finished before")

    def begin(self, name: str) -> None:
        """A trial or measurement starts."""
        self._begun[name] = time.monotonic()

    def event(self, name: str, event: BatchDone | EpochRecord, plan: Plan) -> None:
        """Where a trial is."""

    def end(self, name: str, what: str, trial: bool) -> None:
        """A trial or measurement is over."""
        seconds = time.monotonic() - self._begun.pop(name)
        if trial:
            self._done += 1
            self.say(f"[{self._done}/{self._total}] {name}: {what} ({seconds:.1f} s)")
        else:
            self.say(f"{name}: {what}")


class ProgressBars(ProgressLines):
    """A bar for the study and one for every trial that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=False),
        )
        self._tasks: dict[str, Any] = {}
        self._reading: Any = None
        self._study: Any = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def images(self, done: int, total: int) -> None:
        if self._reading is None:
            self._reading = self._bars.add_task("images", total=total, note="")
        self._bars.update(self._reading, completed=done)
        if done == total:
            self._bars.remove_task(self._reading)
            super().images(done, total)

    def study(self, done: int, total: int) -> None:
        self._study = self._bars.add_task("study", total=total, completed=done, note="trials")
        super().study(done, total)

    def begin(self, name: str) -> None:
        super().begin(name)
        self._tasks[name] = self._bars.add_task(name, total=None, note="")

    def event(self, name: str, event: BatchDone | EpochRecord, plan: Plan) -> None:
        task = self._tasks[name]
        if isinstance(event, EpochRecord):
            score = show_value(event.score, plan.metric)
            note = f"epoch {event.epoch}/{plan.epochs}, {plan.metric.name} {score}"
            self._bars.update(task, note=note)
        else:
            done = event.epoch * event.batches + event.batch
            self._bars.update(task, total=plan.epochs * event.batches, completed=done)

    def end(self, name: str, what: str, trial: bool) -> None:
        self._bars.remove_task(self._tasks.pop(name))
        super().end(name, what, trial)
        if trial:
            self._bars.advance(self._study)


def progress() -> ProgressLines:
    """What suits the place that output goes to."""
    return ProgressBars() if sys.stdout.isatty() else ProgressLines()
