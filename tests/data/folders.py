"""Small folders of images, good and bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (20, 26)) -> Path:
    """``counts[name]`` images in ``root/name``, each class of its own colour."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
            pixels[..., number % 3] += 120
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def truncate(path: Path) -> None:
    """Keep the head of the file only."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def blocks(count: int, above: bool, seed: int = 0) -> list[np.ndarray]:
    """Noisy 40x40 gray images with a bright block above or below."""
    rng = np.random.default_rng([seed, above])
    row = 3 if above else 23
    images = rng.integers(5, 80, (count, 40, 40))
    images[:, row : row + 14, 6:34] += 110
    return list(images.astype(np.uint8))


def save_png(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def make_blocks(
    root: Path,
    count: int = 6,
    splits: tuple[str, ...] = ("",),
    save: Callable[[np.ndarray, Path], None] = save_png,
) -> Path:
    """Two classes, above and below, in each of the splits; each image differs."""
    for number, split in enumerate(splits):
        for name, above in (("above", True), ("below", False)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index, pixels in enumerate(blocks(count, above, number)):
                save(pixels, folder / str(index))
    return root
