"""Where the work of a study runs: one file an executor.

``local`` runs it in processes on this machine, ``ray`` on the nodes of a cluster. Another executor
is a class with the methods of :class:`Executor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # what runs on a node imports little
    from foveate.study.plan import Plan
    from foveate.study.records import Machine


class Failure(NamedTuple):
    """Why work did not return.

    Attributes:
        kind: ``"refused"`` for a ValueError or TypeError, which the user can mend; ``"disk full"``;
            else ``"failed"``.
        reason: in one line; the file that could not be written where the disk is full.
    """

    kind: Literal["refused", "disk full", "failed"]
    reason: str


class Handle(Protocol):
    """Work that was submitted.

    Attributes:
        result: what it returned.
        failure: why it did not return.
        began: when a machine took it up, by this process's monotonic clock; None before.
    """

    result: Any
    failure: Failure | None
    began: float | None

    def poll(self) -> bool:
        """Pass on the events that have come; returns whether the work is over."""
        ...

    def kill(self, reason: str) -> None:
        """End the work at once; it then failed for ``reason``.

        What is over stays as it was, and no other work runs in its process.
        """
        ...


class Executor(Protocol):
    """What runs work elsewhere, so that what breaks there breaks nothing here.

    Attributes:
        machines: where it runs; none for this machine.
        machine: the host on which work that is to be alone runs; None for this one.
        slots: pieces of work at a time, where it is the executor that knows.
    """

    machines: tuple[Machine, ...]

    @property
    def machine(self) -> str | None: ...

    @property
    def slots(self) -> int | None: ...

    def begin(self, root: Path, plan: Plan, say: Callable[[str], None]) -> None:
        """Make ready for the work of a study; before the first :meth:`submit`.

        Args:
            root: the run directory.
            plan: of the study.
            say: is told what the user should know of where the work runs.

        Raises:
            ValueError: if it cannot run there.
        """
        ...

    def submit(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None] = lambda event: None,
        alone: bool = False,
    ) -> Handle:
        """Start ``work(*arguments, tell)``, or have it wait until there is a place for it.

        Args:
            work: ``"module:function"``; this process need not import it.
            arguments: what pickles.
            log: a file that gets what the work prints.
            events: called by :meth:`Handle.poll` with each value that the work passes to ``tell``.
            alone: on one and the same machine, with nothing else of the executor's beside it, as
                what is timed must be.
        """
        ...

    def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> None:
        """Sleep until one of ``handles`` may have something to poll, or so many seconds."""
        ...

    def renew(self) -> None:
        """Work that is submitted next runs in a process that did none of the former."""
        ...

    def close(self) -> None:
        """End whatever still stands by."""
        ...
