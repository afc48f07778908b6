"""Processes that do one piece of work after another, and what becomes of those that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from foveate.study.executors.local import LocalExecutor

WORKS = "tests.study.works"


@pytest.fixture(params=["spawn"] if os.name == "nt" else ["spawn", "forkserver"])
def executor(request):
    made = LocalExecutor(request.param, preload=WORKS)
    yield made
    made.close()


def finish(executor, handle):
    deadline = time.monotonic() + 120
    while not handle.poll():
        assert time.monotonic() < deadline
        executor.wait([handle], 1.0)
    return handle


def submit(executor, tmp_path, function, *arguments, events=lambda event: None):
    return executor.submit(f"{WORKS}:{function}", arguments, tmp_path / "log.txt", events)


def test_a_process_does_one_piece_of_work_after_another(executor, tmp_path):
    told = []
    first = finish(executor, submit(executor, tmp_path, "who", 1, events=told.append))
    second = finish(executor, submit(executor, tmp_path, "who", 2, events=told.append))
    assert first.result == second.result != os.getpid()
    assert told == [1, 2]
    assert (tmp_path / "log.txt").read_text() == "worked on 1\nworked on 2\n"


def test_one_whose_work_failed_is_not_used_again(executor, tmp_path):
    first = finish(executor, submit(executor, tmp_path, "who", 1))
    failed = finish(executor, submit(executor, tmp_path, "fail"))
    assert failed.failure == ("refused", "no luck")
    assert "ValueError: no\nluck" in (tmp_path / "log.txt").read_text()
    assert finish(executor, submit(executor, tmp_path, "who", 2)).result != first.result


def test_two_at_a_time_are_two_processes(executor, tmp_path):
    handles = [submit(executor, tmp_path, "who", number) for number in range(2)]
    assert len({finish(executor, handle).result for handle in handles}) == 2


def test_killed_work_says_why(executor, tmp_path):
    handle = submit(executor, tmp_path, "sleep", 60)
    handle.kill("it took too long")
    assert handle.poll()
    assert handle.failure == ("failed", "it took too long")
    assert finish(executor, submit(executor, tmp_path, "who", 1)).failure is None


def test_the_process_of_work_that_is_over_may_be_ended(executor, tmp_path):
    handle = finish(executor, submit(executor, tmp_path, "who", 1))
    handle.kill("no more")
    assert handle.failure is None
    assert finish(executor, submit(executor, tmp_path, "who", 2)).result != handle.result


def test_spawned_processes_stand_by_before_there_is_work(tmp_path):
    executor = LocalExecutor("spawn", preload="colorsys")
    try:
        executor.warm_up(2)
        handles = [submit(executor, tmp_path, "loaded", number) for number in range(2)]
        assert all(finish(executor, handle).result for handle in handles)
    finally:
        executor.close()


def test_a_process_that_stands_by_does_not_keep_this_one(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from foveate.study.executors.local import LocalExecutor\n"
        f"executor = LocalExecutor('spawn', preload={WORKS!r})\n"
        f"handle = executor.submit('{WORKS}:who', (1,), Path({str(tmp_path / 'log')!r}))\n"
        "while not handle.poll(): executor.wait([handle])\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.skipif(os.name == "nt", reason="signal masks are POSIX's")
def test_interrupts_stay_blocked_while_the_first_process_starts():
    code = (
        "import signal\n"
        "from multiprocessing import resource_tracker\n"
        "from foveate.study.executors.local import _interrupts_blocked\n"
        "with _interrupts_blocked():\n"
        "    resource_tracker.ensure_running()\n"
        "    assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
@pytest.mark.parametrize("delay", [1.0, 2.0, 4.0])
def test_ctrl_c_prints_no_traceback(tmp_path, delay):
    command = [sys.executable, "-m", "foveate", "compare", "--out", str(tmp_path / "run")]
    # Where tests run in the background SIGINT is ignored, and a process would inherit that.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert b"Traceback" not in error, error.decode()
    assert process.returncode in (130, -signal.SIGINT)
