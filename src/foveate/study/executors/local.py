"""Work in processes of their own on this machine.

The processes are forked from a server that has imported the heavy libraries once, so each starts
in a fraction of a second; where they are spawned (Windows, macOS), they import them while the
images are read. Each does its work one piece after another. One that outlives the process that
asked for it ends itself.
"""

from __future__ import annotations

import atexit
import errno
import faulthandler
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foveate._processes import end_with_parent
from foveate.study.executors import Failure, Handle

if TYPE_CHECKING:  # what runs on a node imports little
    from foveate.study.plan import Cluster, Plan
    from foveate.study.records import Machine


def _context(method: str | None, preload: str) -> Any:
    methods = multiprocessing.get_all_start_methods()
    method = method or ("forkserver" if "forkserver" in methods else "spawn")
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([preload])
    return context


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that never see Ctrl-C, not even while they import: this one ends them.

    A blocked signal stays blocked in them; here it is only put off.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # unblocks SIGINT where it starts the tracker: before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the program at hand: they need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _ensure_server(context: Any) -> bool:
    """Start the server that processes are forked from, if that is how they start."""
    if context.get_start_method() != "forkserver":
        return False
    from multiprocessing.forkserver import ensure_running

    with _without_main(), _interrupts_blocked():
        ensure_running()
    return True


class LocalExecutor:
    """Runs work in processes that are forked from a server, or spawned where that cannot be.

    A process that has done its work well stands by for more, so that only the first trials wait
    for imports; one whose work failed is not used again.

    Args:
        method: how processes start; None for what suits the platform.
        preload: the module that they import before there is work.
    """

    machines: tuple[Machine, ...] = ()
    machine: str | None = None
    slots: int | None = None
    cluster: Cluster | None = None

    def __init__(self, method: str | None = None, preload: str = "foveate.study.trial") -> None:
        self._context = _context(method, preload)
        self._preload = preload
        self._idle: list[_Worker] = []
        atexit.register(self.close)  # a process that stands by would keep this one from ending

    def warm_up(self, processes: int = 0) -> None:
        """Let the server, or so many spawned processes, import what trials need meanwhile."""
        if not _ensure_server(self._context):
            missing = processes - len(self._idle)
            self._idle += [_Worker(self._context, self._preload) for _ in range(missing)]

    def begin(self, root: Path, plan: Plan, say: Callable[[str], None]) -> None:
        """Let spawned processes import meanwhile; the one that looks at the plan runs no trial."""
        self.warm_up(1 + (plan.workers or 1))

    def submit(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None] = lambda event: None,
        alone: bool = False,
    ) -> Child:
        """Start the work; see :class:`foveate.study.executors.Executor`."""
        self._idle = [worker for worker in self._idle if worker.alive]
        worker = self._idle.pop(0) if self._idle else _Worker(self._context, self._preload)
        return Child(worker, work, arguments, log, events, self._idle)

    def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> None:
        """Sleep until a process has said something or has ended."""
        wait([child.waitable for child in handles if isinstance(child, Child)], seconds)

    def renew(self) -> None:
        """End the processes that stand by: the next work starts new ones."""
        self.close()

    def close(self) -> None:
        """End the processes that stand by."""
        for worker in self._idle:
            worker.end()
        self._idle.clear()


class _Worker:
    """A process that does one piece of work after another."""

    def __init__(self, context: Any, preload: str) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, preload))
        if _ensure_server(context):  # processes have its mask; waiting for it can be interrupted
            with _without_main():
                self.process.start()
        else:
            with _without_main(), _interrupts_blocked():
                self.process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive() and not self.connection.closed

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Child:
    """Work that a process does: ``work(*arguments, tell)``, and what has come of it.

    Attributes:
        result: what the work returned.
        failure: why it did not return.
        began: when it was submitted: a process takes it up at once.

    Args:
        worker: the process.
        work: ``"module:function"``.
        arguments: what pickles.
        log: a file that gets what the process prints.
        events: called with each value that the work passes to ``tell``.
        idle: where the process stands by when the work went well.
    """

    def __init__(
        self,
        worker: _Worker,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None],
        idle: list[_Worker],
    ) -> None:
        self.events = events
        self.result: Any = None
        self.failure: Failure | None = None
        self.began: float | None = time.monotonic()
        self._over = False
        self._worker, self._idle = worker, idle
        with suppress(OSError):  # it has ended: poll says so
            worker.connection.send((work, arguments, log))

    @property
    def waitable(self) -> Any:
        """What to wait on: it is ready when there is something to :meth:`poll`."""
        connection = self._worker.connection
        return self._worker.process.sentinel if connection.closed else connection

    def poll(self) -> bool:
        """Take in what the process has said; returns whether the work is over."""
        connection = self._worker.connection
        try:
            while not self._over and not connection.closed and connection.poll():
                kind, value = connection.recv()
                if kind == "event":
                    self.events(value)
                elif kind == "done":
                    self._over, self.result = True, value
                    self._idle.append(self._worker)
                else:
                    self._over, self.failure = True, value
                    self._worker.end()
        except (EOFError, OSError):
            connection.close()
        if not self._over and connection.closed:
            self._worker.process.join()
            self._over = True
            self.failure = Failure("failed", _how_it_ended(self._worker.process.exitcode))
        return self._over

    def kill(self, reason: str) -> None:
        """End the work at once, and its process; of work that is over, the process alone."""
        if not self._over:
            self._over, self.failure = True, Failure("failed", reason)
        if self._worker in self._idle:
            self._idle.remove(self._worker)
        self._worker.end()


def _serve(pipe: Connection, preload: str) -> None:
    """What a process does from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    importlib.import_module(preload)  # which a forked process has
    while True:
        try:
            work, arguments, log = pipe.recv()
        except EOFError:
            return
        try:
            _print_into(log)
            module, _, function = work.partition(":")
            run = getattr(importlib.import_module(module), function)
            result = run(*arguments, lambda event: pipe.send(("event", event)))
            gc.collect()  # what a trainer holds in a circle, loader processes among it
            pipe.send(("done", result))
        except Exception as error:
            with suppress(OSError):
                traceback.print_exc()
            pipe.send(("failure", _failure(error)))


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
