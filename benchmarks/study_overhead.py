"""What a trial takes beside a bare loop that trains the same model on the same batches.

    python -m benchmarks.study_overhead [--attention none slide] [--epochs 4] [--rounds 5]

Both train ``pyramid_pico`` on the embedded characters as the default study does, and measure the
held-out images after every epoch. The bare loop is what one would write by hand: forward, loss,
backward, clipping, a step; no checkpoint, no history, no record. They take turns; the ratio is the
median over the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional as F

import foveate.models  # noqa: F401  its backbones, registered with timm
from foveate.data.batches import Batches, held_out_batches, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.tasks.classification import Classification
from foveate.training import Recipe, train
from foveate.training.optimizer import create_optimizer

SIZE = (32, 32)


def model_of(attention: str, images: ImageSet) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "pyramid_pico",
        num_classes=len(images.classes),
        in_chans=images.channels,
        attention=attention,
        start="identity",
    )
    return model.to(memory_format=torch.channels_last)  # pyrefly: ignore


def batches_of(images: ImageSet) -> tuple[Batches, Batches]:
    return train_batches(images, SIZE, 64, 0), held_out_batches(images, SIZE, 256)


def bare(attention: str, images: ImageSet, epochs: int) -> float:
    model, (learning, held_out) = model_of(attention, images), batches_of(images)
    start = time.perf_counter()
    optimizer = create_optimizer(model, Recipe(epochs))
    steps = epochs * len(learning)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        learning.set_epoch(epoch)
        for x, target in learning:
            loss = F.cross_entropy(model(x), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            torch.stack([(model(x).argmax(1) == target).sum() for x, target in held_out]).sum()
    return time.perf_counter() - start


def ours(attention: str, images: ImageSet, epochs: int) -> float:
    model, (learning, held_out) = model_of(attention, images), batches_of(images)
    task = Classification(len(images.classes))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(model, task, learning, held_out, Recipe(epochs), Path(folder))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", nargs="+", default=["none", "slide"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        images = prepare(Path(scratch) / "data", "characters", SIZE, cache="none")
        for attention in given.attention:
            ratios, seconds = [], []
            for number in range(given.rounds + 1):
                plain, whole = (run(attention, images, given.epochs) for run in (bare, ours))
                if number:  # the first round warms up
                    ratios.append(whole / plain)
                    seconds.append(plain)
            print(
                f"{attention}: {statistics.median(seconds):.2f} s bare, a trial takes "
                f"{statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
