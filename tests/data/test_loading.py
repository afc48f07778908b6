"""Loader processes end with the process that they load for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import Dataset

from foveate.data.loading import KeyedLoader


class Numbers(Dataset):
    """The process that loads, whatever the key."""

    def __getitem__(self, key):
        return os.getpid()


def load_and_wait(pipe):
    """What a process that was forked from a server does: load a batch, and then nothing more."""
    loader = KeyedLoader(Numbers(), list, processes=2)
    pids = {pid for batch in loader([[(0, n)] for n in range(4)]) for pid in batch}
    pipe.send(sorted(pids))
    time.sleep(120)


CODE = """
import multiprocessing
import time

from tests.data.test_loading import load_and_wait

context = multiprocessing.get_context("forkserver")
here, there = context.Pipe()
process = context.Process(target=load_and_wait, args=(there,))
process.start()
print(process.pid, *here.recv(), flush=True)
time.sleep(120)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_they_end_when_the_process_that_they_load_for_is_killed():
    main = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    try:
        loading, *workers = map(int, main.stdout.readline().split())
        assert len(workers) == 2
        assert all(map(is_alive, workers))
        os.kill(loading, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, workers))
    finally:
        main.kill()
        main.wait()
