"""Work in processes of their own on this machine.

The processes are forked from a server that has imported the heavy libraries once, so each starts
in a fraction of a second. One that outlives the process that asked for it ends itself.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from foveate.study.executors import Failure, Handle

_PRELOADED = "foveate.study.trial"


def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([_PRELOADED])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the program at hand: they need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class LocalExecutor:
    """Runs work in processes that are forked from a server."""

    def warm_up(self) -> None:
        """Let the server import what trials need, while this process does something else."""
        context = _context()
        if context.get_start_method() == "forkserver":
            from multiprocessing.forkserver import ensure_running

            with _without_main():
                ensure_running()

    def submit(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None] = lambda event: None,
    ) -> Child:
        """Start a process; see :class:`foveate.study.executors.Executor`."""
        return Child(work, arguments, log, events)

    def wait(self, handles: Sequence[Handle]) -> None:
        """Sleep until a process has said something or has ended."""
        wait([child.waitable for child in handles if isinstance(child, Child)])


class Child:
    """A process that runs ``work(*arguments, tell)``, and what has come of it.

    Attributes:
        result: what the work returned.
        failure: why it did not return.

    Args:
        work: ``"module:function"``.
        arguments: what pickles.
        log: a file that gets what the process prints.
        events: called with each value that the work passes to ``tell``.
    """

    def __init__(
        self, work: str, arguments: tuple[Any, ...], log: Path, events: Callable[[Any], None]
    ) -> None:
        self.events = events
        self.result: Any = None
        self.failure: Failure | None = None
        self._over = False
        context = _context()
        self._connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(work, arguments, log, theirs))
        with _without_main():
            self._process.start()
        theirs.close()

    @property
    def waitable(self) -> Any:
        """What to wait on: it is ready when there is something to :meth:`poll`."""
        return self._process.sentinel if self._connection.closed else self._connection

    def poll(self) -> bool:
        """Take in what the process has said; returns whether it is over."""
        try:
            while not self._connection.closed and self._connection.poll():
                kind, value = self._connection.recv()
                if kind == "event":
                    self.events(value)
                else:
                    self._over = True
                    self.result = value if kind == "done" else None
                    self.failure = value if kind == "failure" else None
        except (EOFError, OSError):
            self._connection.close()
        if self._over or self._connection.closed:
            self._process.join()
            self._connection.close()
            if not self._over:
                self._over = True
                self.failure = Failure("failed", _how_it_ended(self._process.exitcode))
        return self._over

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _run(work: str, arguments: tuple[Any, ...], log: Path, pipe: Connection) -> None:
    """What the process does from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    try:
        _print_into(log)
        module, _, function = work.partition(":")
        run = getattr(importlib.import_module(module), function)
        result = run(*arguments, lambda event: pipe.send(("event", event)))
        pipe.send(("done", result))
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()
        pipe.send(("failure", _failure(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _print_into(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # pyrefly: ignore[missing-attribute]
    faulthandler.enable(sys.stderr)


def _failure(error: Exception) -> Failure:
    """How an exception is passed on."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT):
            return Failure("disk full", str(chain.filename or "a file"))
        chain = chain.__cause__ or chain.__context__
    text = " ".join(str(error).split())
    if len(text) > 600:
        text = text[:600] + "..."
    memory = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")
    if isinstance(error, MemoryError) or any(word in text for word in memory):
        return Failure("failed", f"out of memory: {text or type(error).__name__}")
    if isinstance(error, (ValueError, TypeError)):
        return Failure("refused", text)
    name = type(error).__name__
    return Failure("failed", f"{name}: {text}" if text else name)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (perhaps memory ran out)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"
    return f"the process ended by itself with exit code {code}"
