"""Images a second, streamed from a folder of photographs, beside a bare timm loader.

    python -m benchmarks.image_loading --photos 5000 --side 500 --size 64

Makes the photographs, then loads epochs of both in turns: ours as a study streams a set that is too
large to keep decoded, the other timm's ``ImageDataset`` with the same transform in a plain
``DataLoader``. Prints the ratio of the rates with its range over the rounds, the time that
preparing took, and the peak memory of this process and of a loader process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader

from foveate.data.batches import PHOTO, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.data.pixels import pixel_file


def make_photographs(root: Path, count: int, side: int) -> None:
    """JPEGs with structure at every scale, so that their size is that of photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = np.zeros((side, side * 3 // 4, 3), np.float32)
        for cells, weight in ((4, 90), (16, 50), (64, 30), (side, 12)):
            coarse = rng.normal(0, weight, (cells, cells, 3)).astype(np.float32)
            for channel in range(3):
                layer = Image.fromarray(coarse[..., channel])
                resized = layer.resize((side * 3 // 4, side), Image.Resampling.BICUBIC)
                image[..., channel] += np.asarray(resized)
        folder = root / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.jpg", quality=90)


def bare(root: Path, images: ImageSet, given: argparse.Namespace) -> DataLoader:
    """timm's data set with the transform that ours has, over the same training images."""
    transform = create_transform(
        (3, given.size, given.size),
        is_training=True,
        mean=images.moments.mean,
        std=images.moments.std,
        hflip=0.5 if images.augmentation.mirror else 0.0,
        **PHOTO,
    )
    dataset = ImageDataset(str(root), transform=transform)
    wanted = {str(root / name) for name in images.train.names}
    paths = dataset.filenames(absolute=True)
    rows = [row for row, path in enumerate(paths) if path in wanted]
    return DataLoader(
        torch.utils.data.Subset(dataset, rows),
        given.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=given.processes,
        persistent_workers=given.processes > 0,
    )


def rate(batches: Iterator) -> float:
    """Images a second of one epoch."""
    start, count = time.perf_counter(), 0
    for x, _ in batches:
        count += len(x)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--side", type=int, default=500, help="longer side of a photograph")
    parser.add_argument("--size", type=int, default=64, help="side to train at")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cache", choices=("auto", "none"), default="auto", help="auto: a fresh one"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    pixel_file.MEMORY_CAP = 0  # nothing is kept decoded
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photos"
        make_photographs(root, given.photos, given.side)
        cache = "none" if given.cache == "none" else str(Path(scratch) / "cache")
        start = time.perf_counter()
        size = (given.size, given.size)
        images = prepare(Path(scratch) / "set", str(root), size, cache=cache)
        print(f"prepared in {time.perf_counter() - start:.1f} s")
        ours = train_batches(
            images, size, given.batch_size, 0, augment="photo", processes=given.processes
        )
        other = bare(root, images, given)
        rates = []
        for epoch in range(given.rounds + 1):
            ours.set_epoch(epoch)
            rates.append((rate(iter(ours)), rate(iter(other))))
        ratios = [one / two for one, two in rates[1:]]  # the first starts the loaders' processes
        print(
            f"ours {statistics.median(one for one, _ in rates[1:]):.0f} images a second, "
            f"timm's {statistics.median(two for _, two in rates[1:]):.0f}; ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    own, loaders = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"peak memory: {own:.0f} MB, a loader process {loaders:.0f} MB")


if __name__ == "__main__":
    main()
