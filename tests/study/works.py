"""Work for the executor's tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def who(value, tell):
    tell(value)
    print(f"worked on {value}")
    return os.getpid()


def fail(tell):
    raise ValueError("no\nluck")


def sleep(seconds, tell):
    time.sleep(seconds)


def load_torch(tell):
    import torch

    return torch.__version__


def loaded(number, tell):
    """Whether what was to be preloaded had been imported before the work came."""
    return "colorsys" in sys.modules


def crash(tell):
    os.kill(os.getpid(), signal.SIGKILL)


def stay(pids, seconds, tell):
    """Note this process in a file, and stay."""
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")
    tell("here")
    time.sleep(seconds)
    return len(Path(pids).read_text().split())
