"""Images a second while it trains, beside a bare Lightning loop.

    python -m benchmarks.training_throughput [--model pyramid_pico resnet18] [--rounds 5] [--ema]

Both train the same model on the same batches of the embedded characters, with the same optimizer,
schedule and clipping. The bare loop is a ``LightningModule`` of a step and an optimizer; it
measures nothing and saves nothing. Only training counts, not evaluations. They take turns; ratios
are medians over the rounds, with the smallest and the largest, by the clock and by the processor's
time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import timm
import torch
from torch import nn
from torch.nn import functional as F

import foveate.models  # noqa: F401  its backbones, registered with timm
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.tasks.classification import Classification
from foveate.training import Recipe, train
from foveate.training.optimizer import create_optimizer, create_schedule

SIZE = (32, 32)
EPOCHS, BATCH = 3, 64


class Rate(NamedTuple):
    """Images a second, by the clock and by the processor's time."""

    clock: float
    processor: float


class Watch:
    """Adds up what passes while epochs are trained."""

    def __init__(self) -> None:
        self.clock = self.processor = 0.0
        self.images = 0

    def start(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.clock += time.perf_counter() - self._begun[0]
        self.processor += time.process_time() - self._begun[1]

    @property
    def rate(self) -> Rate:
        return Rate(self.images / self.clock, self.images / self.processor)


class Watched:
    """Batches that let the watch run from the first one of an epoch until the last is asked for."""

    def __init__(self, batches, watch: Watch) -> None:
        self.batches, self.watch = batches, watch

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for number, batch in enumerate(self.batches, 1):
            if number == 1:
                self.watch.start()
            if number == len(self.batches):
                self.watch.stop()
            else:
                self.watch.images += len(batch[0])
            yield batch


class Bare(pl.LightningModule):
    """A step and an optimizer."""

    def __init__(self, model: nn.Module, recipe: Recipe, updates: int) -> None:
        super().__init__()
        self.model, self.recipe, self.updates = model, recipe, updates

    def training_step(self, batch, index):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = create_optimizer(self.model, self.recipe)
        schedule = create_schedule(optimizer, self.recipe, self.updates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step_update(self.global_step)


def model_of(name: str, images: ImageSet) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(images.classes), in_chans=images.channels)
    return model.to(memory_format=torch.channels_last)  # pyrefly: ignore


def bare(name: str, images: ImageSet, recipe: Recipe) -> Rate:
    watch = Watch()
    batches = Watched(train_batches(images, SIZE, BATCH, 0), watch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", devices=1, gradient_clip_val=1.0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Bare(model_of(name, images), recipe, len(batches)), batches)
    return watch.rate


def ours(name: str, images: ImageSet, recipe: Recipe) -> Rate:
    watch = Watch()
    batches = Watched(train_batches(images, SIZE, BATCH, 0), watch)
    held_out = held_out_batches(images, SIZE, 256)
    task = Classification(len(images.classes))
    with tempfile.TemporaryDirectory() as folder:
        train(model_of(name, images), task, batches, held_out, recipe, Path(folder))
    return watch.rate


def said(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["pyramid_pico", "resnet18"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ema", action="store_true", help="average the weights, in ours alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plain, recipe = Recipe(EPOCHS), Recipe(EPOCHS, ema_decay=0.999 if given.ema else None)
    with tempfile.TemporaryDirectory() as scratch:
        images = prepare(Path(scratch) / "data", "characters", SIZE, cache="none")
        for name in given.model:
            rounds = [
                (bare(name, images, plain), ours(name, images, recipe))
                for _ in range(given.rounds + 1)
            ][1:]  # the first one warms up
            clock = [mine.clock / theirs.clock for theirs, mine in rounds]
            processor = [mine.processor / theirs.processor for theirs, mine in rounds]
            rate = statistics.median(theirs.clock for theirs, _ in rounds)
            print(
                f"{name}: {rate:.0f} images/s bare; ours {said(clock)} of it by the clock, "
                f"{said(processor)} by the processor's time",
                flush=True,
            )


if __name__ == "__main__":
    main()
