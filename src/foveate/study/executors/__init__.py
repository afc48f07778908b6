"""Where the work of a study runs: one file an executor.

``local`` runs it in processes on this machine. Another executor is a class with the methods of
:class:`Executor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol


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
    """

    result: Any
    failure: Failure | None

    def poll(self) -> bool:
        """Pass on the events that have come; returns whether the work is over."""
        ...

    def kill(self, reason: str) -> None:
        """End the work at once; it then failed for ``reason``.

        What is over stays as it was, and no other work runs in its process.
        """
        ...


class Executor(Protocol):
    """What runs work elsewhere, so that what breaks there breaks nothing here."""

    def warm_up(self, processes: int = 0) -> None:
        """Begin to load what the work will need, for so many pieces of it at a time."""
        ...

    def submit(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None] = lambda event: None,
    ) -> Handle:
        """Start ``work(*arguments, tell)``.

        Args:
            work: ``"module:function"``; this process need not import it.
            arguments: what pickles.
            log: a file that gets what the work prints.
            events: called by :meth:`Handle.poll` with each value that the work passes to ``tell``.
        """
        ...

    def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> None:
        """Sleep until one of ``handles`` has something to poll, or so many seconds."""
        ...

    def close(self) -> None:
        """End whatever still stands by; work that is submitted next starts in a new process."""
        ...
