"""Small folders of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def scene(
    rng: np.random.Generator, size: tuple[int, int], side: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """An image with a green and a blue square on dark ground, and its labels 0, 1, 2."""
    pixels = rng.integers(0, 70, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    for label in (1, 2):
        top, left = (int(rng.integers(0, whole - side)) for whole in size)
        pixels[top : top + side, left : left + side, label] = 220
        labels[top : top + side, left : left + side] = label
    return pixels, labels


def make_scenes(
    root: Path,
    counts: dict[str, int] | None = None,
    size: tuple[int, int] = (20, 26),
    layout: str = "{kind}/{split}",
    kinds: tuple[str, str] = ("images", "masks"),
    names: bool = True,
    side: int = 8,
) -> Path:
    """``counts[split]`` scenes, laid out as said; every second one is two rows taller."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 6, "val": 4}).items():
        folders = [root / layout.format(kind=kind, split=split) for kind in kinds]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels, labels = scene(rng, (size[0] + 2 * (index % 2), size[1]), side)
            labels[0] = 255
            Image.fromarray(pixels).save(folders[0] / f"{split}{index}.png")
            Image.fromarray(labels).save(folders[1] / f"{split}{index}.png")
    if names:
        (root / "classes.txt").write_text("ground\ngreen\nblue\n")
    return root


def rewrite(path: Path, change) -> None:
    """Replace a mask by what ``change`` makes of its labels."""
    Image.fromarray(change(np.asarray(Image.open(path)).copy())).save(path)
