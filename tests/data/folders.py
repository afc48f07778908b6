"""Small folders of images, good and bad."""

from __future__ import annotations

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
