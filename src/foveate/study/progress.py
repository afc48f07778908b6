"""How a study goes, shown: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foveate.study.numbers import show_value
from foveate.study.plan import Plan
from foveate.study.records import BatchDone, EpochRecord


@dataclass
class _Seen:
    """A trial that has begun: when, and how much of it was done when first and last heard of."""

    begun: float
    first: float | None = None
    last: float = 0.0
    ended: float | None = None

    def whole(self, now: float) -> float | None:
        """Seconds that all of it takes at its speed so far; None before a tenth has been seen."""
        seen = self.last - (self.first or 0.0)
        return (now - self.begun) / seen if seen >= 0.1 else None


@dataclass
class Remaining:
    """How long the trials that are left will take, from the measured speed of those that ran.

    A trial takes as long as the others of its row did. One of a row that has not run yet takes as
    long as the others did on average, in the proportion of what a training step of each costs.

    Attributes:
        rows: by the name of each trial that is to run, what it is of.
        workers: trials at a time.
        steps: by row, seconds of a training step as measured beforehand; may be empty.
        clock: seconds, from anywhere on.
    """

    rows: Mapping[str, str]
    workers: int
    steps: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        """A trial begins."""
        self._seen[name] = _Seen(self.clock())

    def at(self, name: str, epochs: float, of: int) -> None:
        """So many of its epochs are done; whole ones before the first call lay in a checkpoint."""
        seen = self._seen[name]
        if seen.first is None:
            seen.first = min(int(epochs), of - 1) / of
        seen.last = epochs / of

    def end(self, name: str) -> None:
        """It is over, well or not."""
        self._seen[name].ended = self.clock()

    def seconds(self) -> float | None:
        """Until all are over; None as long as there is no speed to tell by."""
        now = self.clock()
        known: dict[str, list[float]] = {}
        for name, seen in self._seen.items():
            whole = seen.whole(now if seen.ended is None else seen.ended)
            if whole is not None:
                known.setdefault(self.rows[name], []).append(whole)
        if not known:
            return None
        of_row = {row: sum(times) / len(times) for row, times in known.items()}
        left = [self._left(name, of_row, now) for name in self.rows]
        return max(sum(left) / self.workers, *left)

    def _left(self, name: str, of_row: Mapping[str, float], now: float) -> float:
        seen = self._seen.get(name)
        if seen is not None and seen.ended is not None:
            return 0.0
        whole = self._of_row(self.rows[name], of_row)
        if seen is None:
            return whole
        own = seen.whole(now)
        return (1 - seen.last) * (whole if own is None else own)

    def _of_row(self, row: str, of_row: Mapping[str, float]) -> float:
        if row in of_row:
            return of_row[row]
        if row in self.steps and all(other in self.steps for other in of_row):
            return self.steps[row] * sum(of_row.values()) / sum(self.steps[o] for o in of_row)
        return sum(of_row.values()) / len(of_row)


def show_duration(seconds: float) -> str:
    """``40 s``, ``6 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressLines:
    """One line for each thing that is over."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._done = self._total = self._read = 0
        self._remaining: Remaining | None = None

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Something worth a line."""
        print(text, flush=True)

    def images(self, done: int, total: int) -> None:
        """``done`` of ``total`` images have been read; where some cannot be, more are to be."""
        self._read = done

    def images_done(self) -> None:
        """No more are read."""
        if self._read:
            self.say(f"read {self._read} images")

    def study(self, done: int, total: int) -> None:
        """``done`` of ``total`` trials were over when the study went on."""
        self._done, self._total = done, total
        if done:
            self.say(f"{done} of {total} trials were finished before")

    def expect(self, remaining: Remaining) -> None:
        """These trials are to run."""
        self._remaining = remaining

    def begin(self, name: str) -> None:
        """A trial or measurement starts."""
        self._begun[name] = time.monotonic()
        if told := self._expected(name):
            told.begin(name)

    def event(self, name: str, event: BatchDone | EpochRecord, plan: Plan) -> None:
        """Where a trial is."""
        if told := self._expected(name):
            part = event.batch / event.batches if isinstance(event, BatchDone) else 0.0
            told.at(name, event.epoch + part, plan.epochs * (plan.folds or 1))

    def end(self, name: str, what: str, trial: bool) -> None:
        """A trial or measurement is over."""
        seconds = time.monotonic() - self._begun.pop(name)
        if told := self._expected(name):
            told.end(name)
        if trial:
            self._done += 1
            self.say(f"[{self._done}/{self._total}] {name}: {what} ({seconds:.1f} s){self._left()}")
        else:
            self.say(f"{name}: {what} ({seconds:.1f} s)")

    def _expected(self, name: str) -> Remaining | None:
        """What tells the time of a trial, if it is one that was expected."""
        told = self._remaining
        return told if told is not None and name in told.rows else None

    def _left(self) -> str:
        """``, about 6 min of training left``, where that is known and not over."""
        seconds = None if self._remaining is None else self._remaining.seconds()
        if seconds is None or self._done >= self._total:
            return ""
        return f", about {show_duration(seconds)} of training left"


_MOST_BARS = 12
_LEFT_SECONDS = 1.0


class ProgressBars(ProgressLines):
    """A bar for the study and one for every trial that runs, as far as a terminal holds them."""

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
        self._hidden: dict[str, None] = {}
        self._noted = 0.0
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
        self._bars.update(self._reading, completed=done, total=total)
        super().images(done, total)

    def images_done(self) -> None:
        if self._reading is not None:
            self._bars.remove_task(self._reading)
        super().images_done()

    def study(self, done: int, total: int) -> None:
        self._study = self._bars.add_task("study", total=total, completed=done, note="trials")
        super().study(done, total)

    def begin(self, name: str) -> None:
        super().begin(name)
        visible = len(self._tasks) - len(self._hidden) < _MOST_BARS
        self._tasks[name] = self._bars.add_task(name, total=None, note="", visible=visible)
        if not visible:
            self._hidden[name] = None

    def event(self, name: str, event: BatchDone | EpochRecord, plan: Plan) -> None:
        super().event(name, event, plan)
        if time.monotonic() - self._noted > _LEFT_SECONDS:  # it looks at every trial
            self._noted = time.monotonic()
            more = f", {len(self._hidden)} more at work" if self._hidden else ""
            self._bars.update(self._study, note=f"trials{more}{self._left()}")
        task = self._tasks[name]
        if isinstance(event, EpochRecord):
            score = show_value(event.score, plan.metric)
            note = f"epoch {event.epoch}/{plan.epochs}, {plan.metric.words} {score}"
            self._bars.update(task, note=note)
        else:
            done = event.epoch * event.batches + event.batch
            self._bars.update(task, total=plan.epochs * event.batches, completed=done)

    def end(self, name: str, what: str, trial: bool) -> None:
        self._bars.remove_task(self._tasks.pop(name))
        if name in self._hidden:
            del self._hidden[name]
        elif self._hidden:
            first = next(iter(self._hidden))
            del self._hidden[first]
            self._bars.update(self._tasks[first], visible=True)
        super().end(name, what, trial)
        if trial:
            self._bars.advance(self._study)


def progress() -> ProgressLines:
    """What suits the place that output goes to."""
    return ProgressBars() if sys.stdout.isatty() else ProgressLines()
