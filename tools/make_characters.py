"""Make ``src/foveate/data/sources/characters.npz`` from Omniglot's small background set 1.

    python tools/make_characters.py SOURCE

SOURCE is a directory, or a ``.tar.gz`` or ``.zip`` that holds one, with a folder a character
(``ALPHABET/characterNN/`` as in ``images_background_small1.zip`` of
github.com/brendenlake/omniglot, or ``ALPHABET_characterNN/``) of 20 drawings ``*_01.png`` to
``*_20.png``, one a drawer. Below a folder ``train`` only what is in it is taken.

Each drawing (105x105, 1 bit) is averaged to 32x32 and counts as ink where at least a quarter of the
area is; so strokes stay connected.
"""

from __future__ import annotations

import re
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parents[1] / "src" / "foveate" / "data" / "characters.npz"
DRAWERS, SIDE, INK = 20, 32, 0.25


def main() -> None:
    """Read the command line, write the file."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_characters.py SOURCE")
    source = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        if source.is_file():
            unpack(source, Path(scratch))
            source = Path(scratch)
        drawings = find(source)
        names = sorted(drawings)
        ink = np.stack([[reduce(path) for path in drawings[name]] for name in names])
    with open(OUT, "wb") as file:
        np.savez_compressed(file, classes=np.array(names), ink=np.packbits(ink, axis=-1))
    print(f"{OUT}: {len(names)} characters, {DRAWERS} drawers, {OUT.stat().st_size:,} bytes")


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
    else:
        with tarfile.open(archive) as file:
            file.extractall(target, filter="data")


def find(source: Path) -> dict[str, list[Path]]:
    """The drawings of each character, in the order of the drawers."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    has_train = any(path.is_dir() for path in source.rglob("train"))
    for path in sorted(source.rglob("*_[0-2][0-9].png")):
        parts = path.relative_to(source).parts
        if has_train and "train" not in parts:
            continue
        folder = path.parent.name
        match = re.fullmatch(r"(?:(.+)_)?(character\d+)", folder)
        if match:
            alphabet = match[1] or path.parent.parent.name
            found[f"{alphabet}_{match[2]}"][int(path.stem[-2:])] = path
    if not found:
        sys.exit(f"no drawings below {source}")
    for name, drawings in found.items():
        if sorted(drawings) != list(range(1, DRAWERS + 1)):
            sys.exit(f"{name} has drawings {sorted(drawings)}, expected 1 to {DRAWERS}")
    return {name: [drawings[d] for d in sorted(drawings)] for name, drawings in found.items()}


def reduce(path: Path) -> np.ndarray:
    """(32 * 32,), whether there is ink."""
    with Image.open(path) as image:
        small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return (np.asarray(small) <= 255 * (1 - INK)).reshape(-1)


if __name__ == "__main__":
    main()
