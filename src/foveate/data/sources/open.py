"""The images that a name stands for: embedded, in a folder, a list, arrays, or published."""

from __future__ import annotations

from pathlib import Path

from foveate.data.sources.arrays import Arrays
from foveate.data.sources.base import DataError, Source
from foveate.data.sources.characters import Characters
from foveate.data.sources.digits import Digits
from foveate.data.sources.folders import Folder
from foveate.data.sources.hugging_face import SavedDataset, is_saved_dataset
from foveate.data.sources.lists import List, parquet_files
from foveate.data.sources.named import FACTORIES, Named

__all__ = ["EMBEDDED", "open_source"]

EMBEDDED = ("characters", "digits")
_LISTS = (".csv", ".tsv", ".txt", ".parquet")
_ARRAYS = (".npz", ".npy")


def open_source(name: str, root: str | None = None) -> Source:
    """The source of the images that ``name`` stands for; nothing is listed or read yet.

    Args:
        name: ``"characters"``, ``"digits"``, a folder of images, a list (``.csv``, ``.tsv``,
            ``.parquet``, or a folder of Parquet files), a NumPy file (``.npz``, ``.npy``), a folder
            of ``datasets.save_to_disk``, or ``torchvision/NAME``, ``hfds/NAME``, ``tfds/NAME``.
        root: where named data sets lie or are downloaded to, or what the paths in a list are
            relative to.

    Raises:
        DataError: if there are none, with what would be right.
    """
    if name == "characters":
        return Characters()
    if name == "digits":
        return Digits()
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        path = Path(name)
    if path.is_file():
        return _file(name, path, root)
    if name.split("/", 1)[0] in FACTORIES and "/" in name and not path.exists():
        return Named(name, root)
    if is_saved_dataset(path):
        return SavedDataset(name)
    if path.is_dir() and parquet_files(path):
        return List(name, root)
    return Folder(name)


def _file(name: str, path: Path, root: str | None) -> Source:
    suffix = path.suffix.lower()
    if suffix in _LISTS:
        return List(name, root)
    if suffix in _ARRAYS:
        return Arrays(name)
    raise DataError(
        f"data {name!r} is a file of a kind that is not read; give a folder with one folder a "
        f"class, a list ({', '.join(_LISTS)}) or a NumPy file ({', '.join(_ARRAYS)})"
    )
