"""The run directory: what a study leaves on disk, whole at every moment.

    plan.yaml              the plan that ran, every default filled in
    data/index.json        which images were trained on and held out, and which were unreadable
    environment.json, trials/, measured/, views/        see foveate/study/records.py
    results.csv, .json     a row a trial
    summary.csv            a row for each thing compared, with the numbers of the report
    report.html            all of it on one page
    verdict.json           the verdict's first sentence, which foveate runs shows

A file is written beside and put in place, so a reader sees it whole or not at all, and a trial is
finished when its trial.json is there.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foveate._files import write_text
from foveate.study.lock import LOCK, lock
from foveate.study.plan import Plan, PlanError, difference, load_plan
from foveate.study.records import Records

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)


class StudyError(ValueError):
    """The study cannot go on; the message says why, and nothing already written is lost."""


class DiskFullError(StudyError):
    """The disk is full.

    Args:
        root: the run directory.
        file: what could not be written.
        command: that goes on.
    """

    def __init__(self, root: Path | str, file: str, command: str = "compare") -> None:
        super().__init__(
            f"the disk is full: {file} could not be written; what was written is kept: free some "
            f"space, then foveate {command} --resume {root}"
        )


class Run:
    """A run directory.

    Args:
        root: its path.
        plan: the plan of the study in it.
        new: whether this process made it.

    Attributes:
        records: the results in it.
    """

    def __init__(self, root: Path, plan: Plan, new: bool = False) -> None:
        self.root = root
        self.plan = plan
        self.new = new
        self.records = Records(root)

    @classmethod
    def begin(cls, root: Path, plan: Plan) -> Run:
        """A run directory for ``plan``: a new one, or the one that is there if it is its own.

        Raises:
            StudyError: if the directory belongs to another plan or to something else, another
                process is at work in it, or it cannot be written to.
        """
        with _told(root, "choose another --out"):
            there = [path.name for path in root.iterdir()] if root.exists() else []
            others = [name for name in there if not name.startswith((LOCK, ".plan.yaml."))]
            if others and "plan.yaml" not in others:
                raise StudyError(
                    f"{root} is there already and is no run directory; choose another --out"
                )
            with alone_in(root):  # of two processes that begin at once, one writes its plan
                if not (root / "plan.yaml").exists():
                    write_text(root / "plan.yaml", plan.to_yaml())
                    return cls(root, plan, new=True)
        run = cls.open(root)
        unlike = difference(run.plan, plan)
        if unlike:
            raise StudyError(
                f"{root} belongs to another plan ({unlike}); choose another --out, or go on "
                f"with its own: foveate compare --resume {root}"
            )
        return run

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
            raise StudyError(
                f"{root} holds a damaged plan: {error}; mend {root / 'plan.yaml'}, or choose "
                "another directory to start anew"
            ) from error

    def discard_if_new(self) -> None:
        """Leave no directory behind for a plan that was refused before anything ran."""
        if self.new and not (self.root / "trials").exists():
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def data(self) -> Path:
        """Where the prepared images lie."""
        return self.root / "data"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the directory.

        Raises:
            StudyError: if another process is at work in it.
        """
        with _told(self.root, "make it writable, or copy the run elsewhere"), alone_in(self.root):
            yield


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Keep other processes out of a run directory.

    Raises:
        StudyError: if another process is at work in it.
    """
    with lock(root / LOCK, 1.0) as ours:
        if not ours:
            raise StudyError(f"another process is at work in {root}; wait for it to end")
        yield


@contextmanager
def _told(root: Path, advice: str) -> Iterator[None]:
    """Say in the study's terms that a directory takes no files, or no more."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(root, error.filename or "a file") from error
        here = str(error.filename or "").startswith(str(root))
        if error.errno not in _UNWRITABLE or not here:
            raise
        raise StudyError(f"{root} cannot be written to ({error}); {advice}") from error
