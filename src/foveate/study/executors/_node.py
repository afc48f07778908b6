"""What happens on a node of a cluster: it is looked at, and a process of its own does the work."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from foveate._version import __version__
from foveate.study.executors import Failure
from foveate.study.executors.local import LocalExecutor

REPORT_SECONDS = 1.0
"""Between two messages of a piece of work to the driver."""

_TOKEN = ".cluster"
_TOKEN_SECONDS = 10.0


class Began(NamedTuple):
    """The first event of any work: a node has taken it up.

    Attributes:
        host: the node's name.
    """

    host: str


class Expected(NamedTuple):
    """What the driver has, and a node must have too.

    Attributes:
        root: the run directory.
        token: what a file in it holds, new with each start of the driver.
        versions: of the packages that decide the numbers, by name.
        paths: of the user's own files.
    """

    root: Path
    token: str
    versions: dict[str, str]
    paths: tuple[Path, ...] = ()

    def put_token(self) -> None:
        """Let the nodes find the token."""
        self.root.joinpath(_TOKEN).write_text(self.token)

    def remove_token(self) -> None:
        """Let no node begin anything any more."""
        self.root.joinpath(_TOKEN).unlink(missing_ok=True)

    def seen_by(self, node: str) -> str:
        """What the node has written into the run directory; waits for a slow file system."""
        path = self.root / f"{_TOKEN}-{node}"
        found = _read_patiently(path, self.token)
        path.unlink(missing_ok=True)
        return found

    def refusal(self) -> str | None:
        """Why nothing may run on this machine, in words; None where all is as expected."""
        found = _read_patiently(self.root / _TOKEN, self.token)
        if found != self.token:
            return (
                f"it does not see the run directory {self.root}: put it on storage that all nodes "
                "share under the same path (--out)"
            )
        here = versions()
        for name, wanted in self.versions.items():
            if here[name] != wanted:
                return (
                    f"it has {name} {here[name]} and the driver {wanted}: numbers would differ; "
                    "install the same"
                )
        missing = [path for path in self.paths if not path.exists()]
        if missing:
            return f"there is no {missing[0]} on it: put it where all nodes see it"
        return None


class Job(NamedTuple):
    """A piece of work for a node.

    Attributes:
        work: ``"module:function"``.
        arguments: of it.
        log: what it prints goes there.
        expected: of the node.
        directory: that the driver works in; the work does too, where the node has it.
        preload: the module that a process imports before there is work.
        generation: work of another generation gets a process that did none of the former.
        answer: under this name the node puts the token into the run directory; None for not at all.
    """

    work: str
    arguments: tuple[Any, ...]
    log: Path
    expected: Expected
    directory: Path
    preload: str
    generation: int
    answer: str | None = None


class Outcome(NamedTuple):
    """What came of a piece of work.

    Attributes:
        result: what it returned.
        failure: why it did not.
        events: that were not told before.
    """

    result: Any
    failure: Failure | None
    events: Sequence[Any] = ()


def versions() -> dict[str, str]:
    """Of what decides the numbers, on this machine."""
    return {"foveate": __version__, "torch": _version("torch"), "timm": _version("timm")}


def do(job: Job, tell: Callable[[Sequence[Any]], None]) -> Outcome:
    """Do the work in a process that stands by for more.

    What crashes there is told from a node that is lost: the one comes back as a failure, the other
    makes the cluster do the work again elsewhere.

    Args:
        job: the work.
        tell: gets the events that have come, about once a second.
    """
    host = socket.gethostname()
    tell([Began(host)])
    refusal = job.expected.refusal()
    if refusal is not None:
        return Outcome(None, Failure("failed", f"node {host}: {refusal}"))
    if job.answer is not None:
        (job.expected.root / f"{_TOKEN}-{job.answer}").write_text(job.expected.token)
    if job.directory.is_dir():
        os.chdir(job.directory)
    _note_node(job.log, host)
    executor = _processes.of(job)
    events: list[Any] = []
    handle = executor.submit(job.work, job.arguments, job.log, events.append)
    told = time.monotonic()
    while not handle.poll():
        executor.wait([handle], REPORT_SECONDS)
        if events and time.monotonic() - told >= REPORT_SECONDS:
            tell(events)
            told, events[:] = time.monotonic(), []
    return Outcome(handle.result, handle.failure, events)


class Events:
    """What the pieces of work have told since the driver last asked."""

    def __init__(self) -> None:
        self._told: list[tuple[int, Sequence[Any]]] = []

    def add(self, number: int, events: Sequence[Any]) -> None:
        """Keep the events of a piece of work."""
        self._told.append((number, events))

    def take(self) -> list[tuple[int, Sequence[Any]]]:
        """All that is kept, which then is not any more."""
        told, self._told = self._told, []
        return told


def do_and_tell(number: int, job: Job, events: Any) -> Outcome:
    """Do the work; ``events`` is the actor that has :class:`Events`."""
    return do(job, lambda told: events.add.remote(number, list(told)))


class _Processes:
    """The processes that stand by on this node, of one generation."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._kind: tuple[str, int] | None = None

    def of(self, job: Job) -> LocalExecutor:
        kind = (job.preload, job.generation)
        if self._executor is None or self._kind != kind:
            if self._executor is not None:
                self._executor.close()
            # A server to fork from would be one more process for each piece of work.
            self._executor, self._kind = LocalExecutor("spawn", job.preload), kind
        return self._executor


_processes = _Processes()


def _note_node(log: Path, host: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {host}\n")


def _read_patiently(path: Path, expected: str) -> str:
    """What the file holds; network file systems show news after some seconds."""
    end = time.monotonic() + _TOKEN_SECONDS
    while True:
        try:
            found = path.read_text()
        except OSError:
            found = ""
        if found == expected or time.monotonic() > end or not path.parent.is_dir():
            return found
        time.sleep(0.2)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
