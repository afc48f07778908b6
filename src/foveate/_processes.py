"""Processes that end when the one that asked for them does, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import cache
from multiprocessing.connection import wait


def end_with_parent(_: int = 0) -> None:
    """End this process when the one that asked for it is gone; a ``worker_init_fn`` of PyTorch's.

    A process that was forked from a server has that for its parent in the system's eyes, so that
    PyTorch's own watch over loader processes never notices.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def end_when_orphaned() -> None:
    """End this process when the one that started it is gone, looked at once a second."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
