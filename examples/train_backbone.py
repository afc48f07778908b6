"""Train a backbone of a paper, or any other timm model, on a folder of photographs.

The folder holds one folder a class, or ``train/`` and ``val/`` of such. A run that is interrupted
goes on where it stopped when it is started again.

    python examples/train_backbone.py flowers/ --model pale_tiny --size 64 --epochs 5
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import timm
import torch

import foveate.models  # noqa: F401  registers the backbones
from foveate._random import seed_all
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import loader_processes, prepare
from foveate.data.moments import Moments
from foveate.tasks import Classification
from foveate.training import EpochRecord, Progress, Recipe, train


def show(event: Progress | EpochRecord) -> None:
    """One line an epoch."""
    if isinstance(event, EpochRecord):
        loss, accuracy = event.values["loss"], event.values["accuracy"]
        print(f"epoch {event.epoch}: loss {loss:.3f}, {accuracy:.1%} right")


def main() -> None:
    """Read the command line, train, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of photographs")
    parser.add_argument("--model", default="pale_tiny")
    parser.add_argument("--size", type=int, default=64, help="side to train at, pixels")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pretrained", action="store_true", help="start from published weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/backbone"))
    given = parser.parse_args()

    size = (given.size, given.size)
    images = prepare(given.out / "data", given.data, size)
    print(*images.findings.lines(), sep="\n")
    most = max(Counter(images.test.labels).values()) / len(images.test)
    print(f"{len(images.train)} images to learn from, {len(images.test)} held out, "
          f"{len(images.classes)} classes; the largest has {most:.1%}")  # fmt: skip
    seed_all(given.seed)
    model = timm.create_model(
        given.model,
        pretrained=given.pretrained,
        num_classes=len(images.classes),
        drop_path_rate=given.drop_path,
    )
    recipe = Recipe(epochs=given.epochs, lr=given.lr, device=given.device)
    published = model.pretrained_cfg  # pyrefly: ignore
    normalize = Moments(published["mean"], published["std"]) if given.pretrained else None
    learning = train_batches(
        images, size, given.batch_size, given.seed,
        normalize=normalize, processes=loader_processes(images.train, given.device),
    )  # fmt: skip
    directory = given.out / given.model
    directory.mkdir(parents=True, exist_ok=True)
    held_out = held_out_batches(images, size, 128, normalize=normalize)
    task = Classification(len(images.classes))
    outcome = train(model, task, learning, held_out, recipe, directory, show)
    right = outcome.values["accuracy"]
    print(f"{given.model}: {right:.1%} right, {outcome.train_seconds:.0f} s")


if __name__ == "__main__":
    main()
