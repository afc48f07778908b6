"""Lock files: one process at a time in a run directory, and one in a trial's."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = ".lock"
"""The file that is locked, in a run directory."""


@contextmanager
def lock(path: Path, patience: float) -> Iterator[bool]:
    """Lock the file ``path``; the lock falls free when this process ends, however it ends.

    Yields False if another process keeps it for longer than ``patience`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        deadline = time.monotonic() + patience
        while not (ours := _try_to_lock(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield ours


def _try_to_lock(file: IO[bytes]) -> bool:
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
