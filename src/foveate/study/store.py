"""The run directory: what a study leaves on disk, whole at every moment.

    plan.yaml            the plan that ran, every default filled in
    environment.json     versions, processor, threads, seeds
    data/index.json      which images were trained on and held out, and which were unreadable
    trials/KEY-seedN/    the result as trial.json; history.json, last.ckpt,
                         model.safetensors, log.txt
    measured/KEY.json    latency and memory of the trained model, with nothing else running
    views/KEY.json       what one query sees in the trained model
    results.csv, .json   a row a trial
    report.html          all of it on one page

KEY is the label of what is compared, as a file name. A file is written beside and put in place,
so a reader sees it whole or not at all, and a trial is finished when its trial.json is there.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveate._files import read_json, write_json, write_text
from foveate.study.plan import Entry, Plan, PlanError, difference, load_plan

COLUMNS = (
    "attention", "label", "role", "family", "control", "seed", "host", "status", "error",
    "accuracy", "loss", "epochs", "parameters", "multiply_adds", "latency_ms", "latency_ms_p25",
    "latency_ms_p75", "latency_batch", "peak_memory_mb", "train_images_per_second",
    "train_seconds",
)  # fmt: skip


class StudyError(ValueError):
    """The study cannot go on; the message says why, and nothing already written is lost."""


class NoRoomError(StudyError):
    """The disk is full."""


class Run:
    """A run directory.

    Args:
        root: its path.
        plan: the plan of the study in it.
        new: whether this process made it.
    """

    def __init__(self, root: Path, plan: Plan, new: bool = False) -> None:
        self.root = root
        self.plan = plan
        self.new = new

    @classmethod
    def begin(cls, root: Path, plan: Plan) -> Run:
        """A run directory for ``plan``: a new one, or the one that is there if it is its own.

        Raises:
            StudyError: if the directory belongs to another plan or to something else.
        """
        if (root / "plan.yaml").exists():
            run = cls.open(root)
            unlike = difference(run.plan, plan)
            if unlike:
                raise StudyError(
                    f"{root} belongs to another plan ({unlike}); choose another --out, or go on "
                    f"with its own: foveate compare --resume {root}"
                )
            return run
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise StudyError(
                f"{root} is there already and is no run directory; choose another --out"
            )
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / "plan.yaml", plan.to_yaml())
        return cls(root, plan, new=True)

    def discard_if_new(self) -> None:
        """Leave no directory behind for a plan that was refused before anything ran."""
        if self.new and not (self.root / "trials").exists():
            shutil.rmtree(self.root, ignore_errors=True)

    @classmethod
    def open(cls, root: Path) -> Run:
        """The run directory at ``root``.

        Raises:
            StudyError: if there is none.
        """
        if not (root / "plan.yaml").exists():
            raise StudyError(f"{root} is no run directory: it holds no plan.yaml")
        try:
            return cls(root, load_plan(root / "plan.yaml"))
        except PlanError as error:
            raise StudyError(f"{root} holds a damaged plan: {error}") from error

    @property
    def data(self) -> Path:
        """Where the prepared images lie."""
        return self.root / "data"

    def trial(self, entry: Entry, seed: int) -> Path:
        """The directory of a trial."""
        return self.root / "trials" / f"{entry.key}-seed{seed}"

    def result(self, entry: Entry, seed: int) -> dict[str, Any] | None:
        """What a trial came to, if it is over."""
        return self._read(self.trial(entry, seed) / "trial.json")

    def finished(self, entry: Entry, seed: int) -> bool:
        """Whether the trial ended well; it is then never run again."""
        result = self.result(entry, seed)
        return result is not None and result["status"] == "done"

    def measured(self, entry: Entry) -> dict[str, Any] | None:
        """What was measured on the trained model of ``entry``, if it was."""
        return self._read(self.root / "measured" / f"{entry.key}.json")

    def results(self) -> list[dict[str, Any]]:
        """A row for each trial that is over."""
        rows = []
        for entry in self.plan.entries:
            measured = self.measured(entry) or {}
            latency = measured.get("latency_ms") or {}
            for seed in self.plan.seeds:
                result = self.result(entry, seed)
                if result is not None:
                    row = {
                        **result,
                        "latency_ms": latency.get("median"),
                        "latency_ms_p25": latency.get("p25"),
                        "latency_ms_p75": latency.get("p75"),
                        "latency_batch": latency.get("batch"),
                        "peak_memory_mb": measured.get("peak_memory_mb"),
                    }
                    rows.append({column: row.get(column) for column in COLUMNS})
        return rows

    def write_results(self) -> list[dict[str, Any]]:
        """Put ``results.csv`` and ``results.json`` in place."""
        rows = self.results()
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.root / "results.csv", table.getvalue())
        write_json(self.root / "results.json", rows)
        return rows

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory for this process alone.

        Raises:
            StudyError: if another process is at work in it.
        """
        with held(self.root / ".lock", 1.0) as ours:
            if not ours:
                raise StudyError(f"another process is at work in {self.root}")
            yield

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            return read_json(path)
        except FileNotFoundError:
            return None


def identity(entry: Entry) -> dict[str, Any]:
    """What the files of a study call ``entry``."""
    return {
        "attention": entry.key,
        "mechanism": entry.name,
        "label": entry.label,
        "control": entry.control,
    }


def failure(run: Run, entry: Entry, seed: int, error: str) -> dict[str, Any]:
    """The result of a trial that did not end well."""
    return {
        **identity(entry),
        "role": "control" if entry.control else None,
        "family": "control" if entry.control else None,
        "seed": seed,
        "host": run.plan.host,
        "status": "failed",
        "error": error,
        "accuracy": None,
        "loss": None,
        "epochs": run.plan.epochs,
        "history": [],
        "parameters": None,
        "multiply_adds": None,
        "train_images_per_second": None,
        "train_seconds": None,
    }


def no_room(root: Path, file: str) -> NoRoomError:
    """The disk is full; ``file`` could not be written."""
    return NoRoomError(
        f"no room on the disk to write {file}; what was written is kept: free some room, then "
        f"foveate compare --resume {root}"
    )


@contextmanager
def held(path: Path, patience: float) -> Iterator[bool]:
    """Hold the lock file ``path``, which falls free when this process ends, however it ends.

    Yields False if another process holds it for longer than ``patience`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        deadline = time.monotonic() + patience
        while not (ours := _lock(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield ours


def _lock(file: io.IOBase | Any) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyrefly: ignore
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
