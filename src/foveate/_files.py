"""Files that are whole or absent: written beside, flushed, then put in place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def file_path(path: str | os.PathLike[str], example: str = "model.safetensors") -> Path:
    """``path``, if it can be a file's.

    Args:
        path: where a file is to be.
        example: a file name to propose where it is a folder.

    Raises:
        ValueError: if it is a folder, or holds a NUL byte.
    """
    if "\0" in os.fspath(path):
        raise ValueError(f"no file can be called {os.fspath(path)!r}: there is a NUL byte in it")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file: {path / example}")
    return path


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk``, through links to folders that lie outside of ``root``, each once.

    Folders inside are met under their own names; links that lead back are not followed.
    """
    known = [os.path.realpath(root)]
    for folder, folders, files in os.walk(root, followlinks=True):
        for name in [n for n in folders if os.path.islink(os.path.join(folder, n))]:
            meant = os.path.realpath(os.path.join(folder, name))
            if any(os.path.commonpath([meant, one]) in (meant, one) for one in known):
                folders.remove(name)
            else:
                known.append(meant)
        yield folder, folders, files


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file that takes the place of ``path`` when all went well.

    A reader, or a process that is killed at any moment, sees the old file or the new one.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing_several(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, whose content takes its place beside ``path`` when all went well.

    For writers that make several files, or a folder: what is called like ``path`` comes last, so
    that whoever sees it finds the others. Whatever goes wrong, nothing half-written is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside = beside.with_suffix(".old")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        yield beside
        _check_beside(path, beside)
        for made in sorted(beside.iterdir(), key=lambda made: made.name == path.name):
            place = path.with_name(made.name)
            if made.is_file():
                with open(made, "rb") as file:
                    os.fsync(file.fileno())
            if place.is_dir():  # only an empty folder can be replaced
                place.rename(aside)
            os.replace(made, place)
    except OSError as error:
        if error.filename is None or str(beside) in os.fsdecode(error.filename):
            error.filename = str(path)
        raise
    finally:
        if aside.exists() and not path.exists():
            aside.rename(path)
        for folder in (beside, aside):
            shutil.rmtree(folder, ignore_errors=True)


def _check_beside(path: Path, made: Path) -> None:
    """Refuse to take the place of what is not of an earlier ``path``: a folder, or files alone."""
    for place in (path.with_name(each.name) for each in made.iterdir() if each.name != path.name):
        if place.is_dir():
            raise ValueError(f"{place} is a folder, and a file beside {path.name} is called so")
        if place.exists() and not path.exists():
            raise ValueError(
                f"{place} is there without {path.name}, which would put a file of its own there: "
                "name another, or move it"
            )


def write_text(path: Path, text: str) -> None:
    """Put ``text`` at ``path``, whole."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` at ``path`` as JSON, whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
