"""Decoded and reduced images on disk, so that large photographs are decoded once, not every epoch.

The cache is bounded, and may be deleted at any time. An entry carries a checksum of its pixels: a
damaged one counts as absent and is made again. One process a study writes (the one that prepares
the images); all read. The oldest entries make room when it is opened.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from foveate.data.pixels.decode import VERSION

LIMIT = 4 << 30
"""Bytes that the cache may hold."""
_MAGIC = b"fov1"
_CHECKSUM = 16
_SHAPE = np.dtype("<u4")


def cache_directory(where: str) -> tuple[Path | None, str | None]:
    """Where the cache lies, and if there is none although it was wanted, why.

    Args:
        where: ``"auto"`` (``$XDG_CACHE_HOME/foveate/images``, or ``~/.cache/foveate/images``),
            ``"none"``, or a directory.
    """
    if where == "none":
        return None, None
    try:
        if where != "auto":
            directory = Path(where).expanduser()
        elif base := os.environ.get("XDG_CACHE_HOME"):
            directory = Path(base) / "foveate" / "images"
        else:
            directory = Path.home() / ".cache" / "foveate" / "images"
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            return None, f"decoded images are not cached: {directory} is read-only"
    except RuntimeError:
        return None, "decoded images are not cached: there is no home directory; name a cache"
    except OSError as error:
        return None, f"decoded images are not cached: {error.filename}: {error.strerror}"
    return directory, None


class ImageCache:
    """Pixels by a key that names the stored image and what was made of it.

    Args:
        directory: where entries lie.
        limit: bytes that they may take together.
        writable: whether this process adds entries.
    """

    def __init__(self, directory: Path, limit: int = LIMIT, writable: bool = False) -> None:
        self.directory, self.limit, self.writable = directory, limit, writable
        self.room = limit - self._make_room() if writable else 0

    def key(self, fingerprint: str, side: tuple[int, int], options: str) -> str:
        """The name of an entry."""
        text = f"{VERSION}|{fingerprint}|{side[0]}x{side[1]}|{options}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()

    def get(self, key: str) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """The pixels and what decoding them took, if they are there and whole."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        head = len(_MAGIC) + _CHECKSUM
        body = data[head:]
        if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : head] != _checksum(body):
            with suppress(OSError):
                self._path(key).unlink()
            return None
        *shape, told = np.frombuffer(body, _SHAPE, 4).tolist()
        start = 4 * _SHAPE.itemsize
        kinds = body[start : start + told].decode()
        pixels = np.frombuffer(body, np.uint8, offset=start + told)
        return _in_shape(pixels, shape), tuple(kinds.split("|")) if kinds else ()

    def put(self, key: str, pixels: np.ndarray, kinds: tuple[str, ...]) -> None:
        """Keep an image, if there is room; a cache that cannot be written to is no error."""
        told = "|".join(kinds).encode()
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        head = np.array([*pixels.shape[:2], channels, len(told)], _SHAPE).tobytes()
        body = head + told + np.ascontiguousarray(pixels).tobytes()
        size = len(_MAGIC) + _CHECKSUM + len(body)
        if not self.writable or size > self.room:
            return
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_MAGIC + _checksum(body) + body)
            os.replace(beside, path)
            self.room -= size
        except OSError:
            self.writable = False
            with suppress(OSError):
                beside.unlink()

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key[2:]

    def _make_room(self) -> int:
        """Remove the oldest entries beyond half the limit once it is reached; what is left."""
        entries = []
        for file in self.directory.glob("??/*"):
            with suppress(OSError):
                about = file.stat()
                entries.append((about.st_mtime, about.st_size, file))
        total = sum(size for _, size, _ in entries)
        if total <= 0.9 * self.limit:
            return total
        for _, size, file in sorted(entries, key=lambda entry: entry[0]):
            if total <= self.limit / 2:
                break
            with suppress(OSError):
                file.unlink()
                total -= size
        return total


def _in_shape(pixels: np.ndarray, shape: list[int]) -> np.ndarray:
    height, width, channels = shape
    return pixels.reshape((height, width) if channels == 1 else (height, width, channels))


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM).digest()
