"""Which of several processes this is, before they have met."""

from __future__ import annotations

import os
import time
from pathlib import Path

from foveate._files import write_text

_READY = ".ready"
_ROOT = "FOVEATE_RUN"
"""The run directory, for processes that run the same command again."""


def is_first() -> bool:
    """Whether this process is the one that reads images, writes and prints."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def started_by_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def inherited() -> Path | None:
    """The run directory of the process that started this one with the same command."""
    again = "LOCAL_RANK" in os.environ and not started_by_torchrun()
    return Path(os.environ[_ROOT]) if again and _ROOT in os.environ else None


def hand_down(root: Path) -> None:
    """Tell processes that run the same command again where the run directory is."""
    os.environ[_ROOT] = str(root.absolute())


def announce(root: Path) -> None:
    """In the first process: images are read and everything is checked."""
    if started_by_torchrun():
        write_text(root / _READY, _token())


def await_first(root: Path) -> None:
    """In the others: wait until the first one has read the images.

    If it ends before, ``torchrun`` ends this process.
    """
    while started_by_torchrun() and not _is_ready(root / _READY):
        time.sleep(0.2)


def withdraw(root: Path) -> None:
    """In the first process: nothing is ready yet, whatever an earlier run has left."""
    (root / _READY).unlink(missing_ok=True)


def _is_ready(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8") == _token()
    except FileNotFoundError:
        return False


def _token() -> str:
    """The same in all processes of a run, and another one in the next run."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "") for name in names)
