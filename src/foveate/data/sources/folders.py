"""A folder of images: one folder a class, alone or inside ``train``, ``val`` and ``test``.

Split folders are known by name in any case and in the usual habits (``Training_Set``, ``trn``,
``Validation``, ``dev``, ``Testing``). A folder of such a name that holds images itself, beside
other classes, is a class. Whatever is not read is in the listing with its reason.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from foveate.arguments import nearest
from foveate.data.findings import LeftOut, printable
from foveate.data.pixels.decode import NEEDS_PACKAGE, open_file
from foveate.data.sources.base import (
    FINAL,
    TEST,
    TRAIN,
    DataError,
    Item,
    Listing,
    Raw,
    Source,
    settle_splits,
    split_named,
)

_SYSTEM_FOLDERS = {
    "@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "__pycache__",
    "lost+found",
}  # fmt: skip
_THUMBNAIL_FOLDERS = {"thumbnails", "thumbs", "_thumbs", "thumbnail"}
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
HIDDEN_FOLDER = "in hidden or thumbnail folders"
HIDDEN_FILE = "hidden files and files of the operating system"
BROKEN = "broken links"
CLOSED = "folders that cannot be opened"
STRAY = "images in no class folder"
SPECIAL = "not regular files"
EMPTY = "folders without images"
RUNS = "run directories of foveate"
BESIDE = "folders beside the splits"
_ENOUGH = 8


class Folder(Source):
    """A tree of image files."""

    grows = True

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self.root = Path(path).expanduser()
        except RuntimeError as error:
            raise DataError(f"data {path!r} cannot be found: {error}") from None
        if not self.root.exists():
            raise DataError(
                f"data {path!r} does not exist; give a folder of images, a list (CSV or Parquet), "
                "a NumPy file, 'characters', 'digits' or torchvision/NAME"
            )
        if not self.root.is_dir():
            raise DataError(f"data {path!r} is a file; give a folder with one folder a class")

    def list(self) -> Listing:
        return _Walk(self.root, self.name).listing()

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        return open_file(self.root / name, side)

    def fingerprint(self, name: str) -> str | None:
        path = self.root / name
        about = path.stat()
        return f"{path.absolute()}|{about.st_size}|{about.st_mtime_ns}"


class _Child(NamedTuple):
    """A folder below the root."""

    name: str
    has_images: bool
    has_class_folders: bool


class _Walk:
    """One look through a tree."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def listing(self) -> Listing:
        folders, files = self._entries("")
        stray = [file for file in files if _by_suffix(file)]
        self._leave_out_each(stray, STRAY)
        opened = [folder for folder in folders if self._opens(folder)]
        children = [self._child(folder) for folder in opened if not self._is_run(folder)]
        splits = self._splits(children)
        if splits:
            per_split = {split: self._classes(folder) for folder, split in splits.items()}
        else:
            per_split = {"": self._classes("", {child.name for child in children})}
        if not any(per_split.values()):
            raise DataError(self._nothing_there(len(stray)))
        classes = self._names(per_split, {split: folder for folder, split in splits.items()})
        items = [
            Item(file, number, split)
            for split, tree in per_split.items()
            for number, files_of in self._numbered(tree, classes)
            for file in files_of
        ]
        items = settle_splits(items, self.notes, repr(self.name))
        if len(classes) == 1:
            raise DataError(
                f"only one class, {classes[0]!r}, in {self.name!r}: expected one folder a class, "
                "at least two"
            )
        return Listing([printable(c) for c in classes], items, self.left_out, self.notes,
                       self.warnings)  # fmt: skip

    def _splits(self, children: list[_Child]) -> dict[str, str]:
        """The folders that are splits, by name; none if the folders are classes."""
        named = {c.name: s for c in children if (s := split_named(c.name)) is not None}
        nested = [c for c in children if c.name in named and c.has_class_folders]
        several = len({named[c.name] for c in nested}) > 1
        splits = {c.name: named[c.name] for c in nested if several or not c.has_images}
        others = [c for c in children if c.name not in splits]
        for split in set(splits.values()):
            same = [name for name, s in splits.items() if s == split]
            if len(same) > 1:
                raise DataError(
                    f"{' and '.join(map(repr, same))} in {self.name!r} both name the same split; "
                    "rename or move one"
                )
        if not splits:
            self._say_classes_named_like_splits(named)
            return {}
        unlabelled = [c for c in others if c.name in named and c.has_images]
        classes = [c for c in others if (c.has_images or c.has_class_folders)
                   and c not in unlabelled]  # fmt: skip
        if classes and set(splits.values()) != {TRAIN} and TRAIN in splits.values():
            for child in classes:
                self._leave_out_folder(child.name, BESIDE)
        elif classes:
            split = next(iter(splits))
            raise DataError(
                f"{split!r} in {self.name!r} holds folders, as a split does, but "
                f"{classes[0].name!r} stands beside it: if {split!r} is a class, put its images "
                "into it directly or rename it; if it is a split, move the other folders elsewhere"
            )
        for child in unlabelled:
            self._leave_out_folder(child.name, "images of a split in no class folder")
        if any(name not in ("train", "val", "test") for name in splits):
            final = "test" if TEST in splits.values() else "held out"
            roles = {TRAIN: "training", TEST: "held out", FINAL: final}
            read = ", ".join(f"{name} as {roles[split]}" for name, split in splits.items())
            self.notes.append(f"folders read as the split: {read}")
        return splits

    def _say_classes_named_like_splits(self, named: dict[str, str]) -> None:
        for name in named:
            self.notes.append(
                f"{name!r} is read as a class, not as a split, because images lie in it directly"
            )

    def _child(self, name: str) -> _Child:
        folders, files = self._entries(name, note=False)
        holds_images = any(_by_suffix(file) for file in files)
        return _Child(
            name,
            holds_images or (bool(files) and self._sniffed(name, files)),
            any(self._holds_images(f"{name}/{folder}") for folder in folders),
        )

    def _holds_images(self, folder: str) -> bool:
        """Whether a file below it is an image by its ending, or by what is in it."""
        unknown = []
        for file in self._files(folder, note=False):
            if _by_suffix(file):
                return True
            if len(unknown) < _ENOUGH:
                unknown.append(file)
        return self._sniffed("", unknown)

    def _opens(self, folder: str) -> bool:
        """Whether a folder below the root can be opened; if not, that is said."""
        found: list[LeftOut] = []
        self._scan(folder, found)
        self.left_out += found
        self.warnings += [f"{folder!r} is missing from the set: {f.reason}" for f in found]
        return not found

    def _sniffed(self, folder: str, files: list[str]) -> bool:
        return any(_is_image(self.root / folder / file) for file in files[:_ENOUGH])

    def _is_run(self, name: str) -> bool:
        """Leave out a directory of runs, which the study itself may have put here."""
        path = self.root / name
        inner = [path, *(path / child for child in self._entries(name, note=False)[0])]
        if not any((p / "plan.yaml").is_file() for p in inner):
            return False
        self._leave_out_folder(name, RUNS)
        return True

    def _classes(self, tree: str, only: set[str] | None = None) -> dict[str, list[str]]:
        """For each class folder of a tree, its files."""
        folders, files = self._entries(tree, note=bool(tree))
        prefix = f"{tree}/" if tree else ""
        if tree:
            self._leave_out_each([prefix + file for file in files if _by_suffix(file)], STRAY)
        classes = {}
        for folder in folders:
            if only is not None and folder not in only:
                continue
            before = len(self.left_out)
            members = list(self._files(prefix + folder, label=folder))
            lost = [item for item in self.left_out[before:] if item.label == folder]
            if members and (any(map(_by_suffix, members)) or self._sniffed("", members)):
                classes[folder] = members
            elif lost:
                raise DataError(
                    f"class {folder!r} of {self.name!r} has only files that cannot be read: "
                    f"{len(lost)} {lost[0].reason}, the first {lost[0].name!r}"
                )
            else:
                self.left_out.append(LeftOut(prefix + folder, EMPTY))
        return classes

    def _names(self, per_split: dict[str, dict], folders: dict[str, str]) -> list[str]:
        """The classes of the set: those of the training tree, which the others must agree with."""
        leading = per_split.get(TRAIN) or next(tree for tree in per_split.values() if tree)
        classes = list(leading)
        for split, tree in per_split.items():
            for name in list(tree):
                if name in classes:
                    continue
                alike = [c for c in classes if _same_name(c, name)]
                if len(alike) != 1 or alike[0] in tree:
                    where = str(self.root / folders.get(split, ""))
                    raise DataError(
                        f"class {name!r} of {where!r} is not among the training classes"
                        f"{nearest(name, classes)}"
                    )
                tree[alike[0]] = tree.pop(name)
                self.notes.append(
                    f"class {name!r} of {folders.get(split, split)} is taken for {alike[0]!r}"
                )
            missing = [c for c in classes if c not in tree]
            if missing:
                self.notes.append(
                    f"{folders.get(split, split)} has no image of {len(missing)} of "
                    f"{len(classes)} classes ({', '.join(missing[:3])})"
                )
        return classes

    @staticmethod
    def _numbered(tree: dict[str, list[str]], classes: list[str]) -> list[tuple[int, list[str]]]:
        return [(number, tree[name]) for number, name in enumerate(classes) if name in tree]

    def _files(
        self,
        folder: str,
        label: str | None = None,
        note: bool = True,
        seen: frozenset = frozenset(),
    ) -> Iterator[str]:
        """Files below a folder, links to folders followed once, in order of their paths."""
        try:
            about = os.stat(self.root / folder)
        except OSError:
            about = None
        here = (about.st_dev, about.st_ino) if about else None
        if here is None or here in seen:
            return
        folders, files = self._entries(folder, label, note, inside_class=True)
        inner = [(f"{folder}/{name}", True) for name in folders]
        inner += [(f"{folder}/{name}", False) for name in files]
        for name, is_folder in sorted(inner, key=lambda pair: pair[0].split("/")):
            if is_folder:
                yield from self._files(name, label, note, seen | {here})
            else:
                yield name

    def _entries(
        self, folder: str, label: str | None = None, note: bool = True, inside_class: bool = False
    ) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder; what is neither is left out."""
        folders, files = [], []
        prefix = f"{folder}/" if folder else ""
        found: list[LeftOut] = []
        for entry in self._scan(folder, found):
            name = prefix + entry.name
            hidden = entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FOLDERS
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                if hidden:
                    continue
                broken = entry.is_symlink()
                why = BROKEN if broken else error.strerror or str(error)
                found.append(LeftOut(name, why, label, unreadable=not broken))
                continue
            if stat.S_ISDIR(mode):
                thumbnails = inside_class and entry.name.lower() in _THUMBNAIL_FOLDERS
                if hidden or thumbnails:
                    found += self._hidden_folder(name) if note else []
                else:
                    folders.append(entry.name)
            elif not stat.S_ISREG(mode):
                found.append(LeftOut(name, SPECIAL, label))
            elif hidden or entry.name.lower() in _SYSTEM_FILES:
                found.append(LeftOut(name, HIDDEN_FILE))
            else:
                files.append(entry.name)
        if note:
            self.left_out += found
        return folders, files

    def _scan(self, folder: str, found: list[LeftOut]) -> list[os.DirEntry]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise DataError(f"data {self.name!r} cannot be opened: {error.strerror}") from None
            found.append(LeftOut(folder, f"{CLOSED}: {error.strerror}"))
            return []

    def _hidden_folder(self, name: str) -> list[LeftOut]:
        count = sum(len(files) for _, _, files in os.walk(self.root / name))
        return [LeftOut(name, HIDDEN_FOLDER, count=count)] if count else []

    def _leave_out_folder(self, name: str, why: str) -> None:
        count = sum(len(files) for _, _, files in os.walk(self.root / name))
        self.left_out.append(LeftOut(name, why, count=count))

    def _leave_out_each(self, names: list[str], why: str) -> None:
        self.left_out += [LeftOut(name, why) for name in names]

    def _nothing_there(self, stray: int) -> str:
        text = f"no images in {self.name!r}: expected one folder a class with files"
        if stray:
            text = (
                f"{stray:,} images lie in {self.name!r} itself, so that their classes are unknown: "
                "expected one folder a class, or a list of path and label"
            )
        closed = [item for item in self.left_out if item.reason.startswith(CLOSED)]
        return f"{text} ({closed[0].name!r}: {closed[0].reason})" if closed else text


def _same_name(one: str, other: str) -> bool:
    return _normal(one) == _normal(other)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _by_suffix(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in Image.registered_extensions() or suffix in NEEDS_PACKAGE


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return False
