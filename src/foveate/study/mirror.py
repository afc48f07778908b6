"""Run directories on object stores: worked in locally, kept up to date there.

A run needs what object stores lack: locks, and files that are put in place whole. So a run whose
directory is an address (``s3://bucket/run``, or any other that fsspec knows) works in a temporary
directory on this machine. What is there already is fetched first; while the run goes on every file
that is new or has changed is copied every half minute, and once more at the end, however it ends. A
machine that dies loses half a minute, and the run goes on from any other.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from foveate.data.pixels.pixel_file import MASK_PLACES, MASKS, PIXELS, PLACES
from foveate.data.record import SetRecord
from foveate.study.entry import PlanError

SECONDS = 30.0
"""Between two looks at what has changed."""

_LOCAL = (PIXELS, PLACES, MASKS, MASK_PLACES)
"""Files that are made again from the images, and can be large."""

_LAST = ("trial.json", "training.json", "report.html")
"""Files that say that something is over: copied after what they speak of."""


def is_address(path: str | PathLike[str] | None) -> bool:
    """Whether a run directory is an address and no path of this machine."""
    return path is not None and "://" in os.fspath(path)


@contextmanager
def mirrored(out: str | PathLike[str]) -> Iterator[Path]:
    """The directory to work in: ``out`` itself, or one whose files are kept up to date there.

    Args:
        out: a path, or an address that fsspec knows.

    Raises:
        PlanError: if the address cannot be used: the package that reads it is missing, or the store
            does not answer.
    """
    if not is_address(out):
        yield Path(out)
        return
    address = os.fspath(out).rstrip("/")
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        local = Path(folder) / address.rpartition("/")[2]
        mirror = _Mirror(address, local)
        mirror.fetch()
        with mirror.going_on():
            yield local


class _Mirror:
    """A directory, and where its files are copied.

    Args:
        address: of the directory there.
        local: the directory here.
    """

    def __init__(self, address: str, local: Path) -> None:
        self.address, self.local = address, local
        self._copied: dict[str, tuple[int, int]] = {}
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(address)
        except ImportError as error:  # fsspec names the package
            raise PlanError(f"{address} needs a package: {error}") from error
        except ValueError as error:
            raise PlanError(f"{address} is no address that fsspec knows: {error}") from error

    def fetch(self) -> None:
        """Copy what is there."""
        with self._explained("read"):
            there = self._files.find(self._root) if self._files.exists(self._root) else []
            for path in there:
                name = path[len(self._root) :].lstrip("/")
                target = self.local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(path, str(target))
                self._copied[name] = _state(target)
        self.local.mkdir(parents=True, exist_ok=True)
        record = SetRecord.read(self.local / "data")
        if record is not None and record.whole:  # its pixels are made again
            record.whole = False
            record.write(self.local / "data")

    def send(self) -> None:
        """Copy what is new or has changed since, and remove what is gone."""
        here = {
            path.relative_to(self.local).as_posix(): path
            for path in sorted(self.local.rglob("*"), key=lambda path: path.name in _LAST)
            if path.is_file() and not path.name.startswith(".") and path.name not in _LOCAL
        }
        for name, path in here.items():
            try:
                state = _state(path)
                if self._copied.get(name) != state:
                    self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(path), f"{self._root}/{name}")
                    self._copied[name] = state
            except FileNotFoundError:  # put in another's place, or removed, meanwhile
                continue
        for name in [name for name in self._copied if name not in here]:
            del self._copied[name]
            if self._files.exists(f"{self._root}/{name}"):
                self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Copy now and then, and at the end."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(SECONDS):
                with suppress(Exception):  # the store may answer again; the last time counts
                    self.send()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
            with self._explained("written"):
                self.send()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store has its own
            first = str(error).splitlines()[0] if str(error) else ""
            raise PlanError(
                f"{self.address} cannot be {what}: {type(error).__name__}: {first}"
            ) from error


def _state(path: Path) -> tuple[int, int]:
    found: Any = path.stat()
    return found.st_size, found.st_mtime_ns
