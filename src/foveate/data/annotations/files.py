"""Finding the image that an annotation file means, wherever it lies below the root of the set."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from foveate._files import walk
from foveate.data.findings import printable
from foveate.data.pixels.decode import NEEDS_PACKAGE
from foveate.data.sources.base import DataError, split_named

MISSING = "annotated images that are not there"
_HIDDEN = ("@eadir", "__macosx", "__pycache__")


class ImageFiles:
    """The image files below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def all(self) -> list[str]:
        """Paths relative to the root, ``/`` between folders, in order."""
        suffixes = {*Image.registered_extensions(), *NEEDS_PACKAGE} - {".pdf", ".svg"}
        found = []
        for folder, folders, files in walk(self.root):
            folders[:] = sorted(
                f for f in folders if not f.startswith(".") and f.lower() not in _HIDDEN
            )
            where = Path(folder).relative_to(self.root).as_posix()
            found += [
                file if where == "." else f"{where}/{file}"
                for file in sorted(files)
                if os.path.splitext(file)[1].lower() in suffixes and not file.startswith(".")
            ]
        return found

    @cached_property
    def _by_file_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in self.all:
            found[PurePosixPath(path).name].append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in self.all:
            found[PurePosixPath(path).stem].append(path)
        return found

    def find(self, name: str, split: str = "", beside: Path | None = None) -> str | None:
        """The file that is meant by ``name``; None if there is none.

        Args:
            name: path as an annotation file states it: from the root, from the file itself, or
                only the end of it; of another system, too.
            split: what the file is of; of several images of one name the one in a folder of this
                split is meant.
            beside: folder of the annotation file, whose own images come first.

        Raises:
            DataError: if several are meant.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        return self._pick(self._by_file_name.get(wanted.name, []), wanted, split, beside)

    def find_stem(self, stem: str, split: str = "", beside: Path | None = None) -> str | None:
        """As :meth:`find`, for a name without its ending."""
        return self._pick(self._by_stem.get(stem, []), PurePosixPath(stem), split, beside)

    def _pick(
        self, found: list[str], wanted: PurePosixPath, split: str, beside: Path | None
    ) -> str | None:
        if len(found) <= 1:
            return found[0] if found else None
        ends = [path for path in found if path.endswith(f"/{wanted}") or path == str(wanted)]
        found = ends or found
        mine = [path for path in found if split and _split_of(path) == split]
        found = mine or found
        if len(found) > 1 and beside is not None:
            folder = beside.relative_to(self.root).as_posix()
            found = [p for p in found if PurePosixPath(p).parent.as_posix() == folder] or found
        if len(found) > 1:
            raise DataError(
                f"{str(wanted)!r} may be {printable(found[0])!r} or {printable(found[1])!r} in "
                f"{str(self.root)!r}: give the folder in the file's name, or keep the images of "
                "each split in a folder called train, val or test"
            )
        return found[0]


def _split_of(path: str) -> str | None:
    """The split of the innermost folder that is named after one."""
    for part in reversed(PurePosixPath(path).parts[:-1]):
        if (split := split_word(part)) is not None:
            return split
    return None


def read_text(path: Path) -> str:
    """The text of an annotation file.

    Raises:
        DataError: if it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def split_word(text: str) -> str | None:
    """The split that a word of ``text`` names, as in ``instances_train2017``."""
    words = "".join(c if c.isalpha() else " " for c in text).split()
    found = {split for word in words if (split := split_named(word)) is not None}
    return found.pop() if len(found) == 1 else None
