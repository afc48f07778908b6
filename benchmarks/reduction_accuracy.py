"""Reduced models on real images: accuracy beside latency, without and with training on.

    python -m benchmarks.reduction_accuracy DATA [--limit N] [--epochs 15] [--more 3] [--save]

A small vision transformer learns DATA (what ``foveate compare --data`` takes) from scratch,
and goes on for ``more`` epochs, so that what is reduced has no advantage by training longer. Each
reducer at each budget is applied to the model before that, measured as it is, trained on for
``more`` epochs with what it asks for and the unreduced model as its teacher, and measured again.
Latency is processor time of a batch of 16, one thread, the contestants in turns; medians.
Accuracies are means over seeds of the whole. A line for every training is printed as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import foveate
from benchmarks.measure import save
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.study.entry import Entry
from foveate.tasks import Classification, ReducedClassification
from foveate.training import Recipe, train

SIDE, BATCH = 32, 64
NARROW = {"img_size": SIDE, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
BUDGETS = (
    "tome:r=3", "tome:r=6", "tome:r=9",
    "token_pooling:keep=0.8", "token_pooling:keep=0.6", "token_pooling:keep=0.4",
    "dynamicvit:keep=0.8", "dynamicvit:keep=0.6", "dynamicvit:keep=0.4",
    "evovit:keep=0.7", "evovit:keep=0.5", "evovit:keep=0.3",
    "psvit:share=[3]", "psvit:share=[1,3,5]", "psvit:share=[1,3,5],pool=[2]",
)  # fmt: skip
WHOLE = "whole model"


def accuracy(model: nn.Module, images: ImageSet) -> float:
    """On the images held out."""
    task = Classification(len(images.classes))
    evaluator = task.evaluator()
    with torch.inference_mode():
        for x, labels in held_out_batches(images, (SIDE, SIDE), BATCH):
            evaluator.update(task.predict(model.eval(), x), labels)
    return evaluator.compute()["accuracy"]


def trained(model: nn.Module, task: Any, images: ImageSet, recipe: Recipe, seed: int) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        learning = train_batches(images, (SIDE, SIDE), BATCH, seed)
        held_out = held_out_batches(images, (SIDE, SIDE), BATCH)
        train(model, task, learning, held_out, recipe, Path(folder), lambda event: None)
    return model.eval()


def of_seed(images: ImageSet, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """The models of a seed by budget, with their accuracies before and after training on."""
    torch.manual_seed(seed)
    classes = len(images.classes)
    task = Classification(classes)
    options = {**NARROW, "in_chans": images.channels}
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **options)
    whole = trained(whole, task, images, Recipe(given.epochs, lr=1e-3), seed)
    on = Recipe(given.more, lr=2e-4, warmup_epochs=0, added_lr_scale=5)
    found: dict[str, Any] = {}
    before = accuracy(whole, images)
    longer = trained(copy.deepcopy(whole), task, images, on, seed)
    found[WHOLE] = (longer, before, accuracy(longer, images))
    told(seed, WHOLE, found)
    for budget in BUDGETS:
        entry = Entry.read(budget)
        torch.manual_seed(seed)
        model = foveate.reduce(copy.deepcopy(whole), entry.name, **entry.kwargs)
        before = accuracy(model, images)
        learnt = ReducedClassification(task, teacher=whole)
        model = trained(model, learnt, images, on, seed)
        found[budget] = (model, before, accuracy(model, images))
        told(seed, budget, found)
    return found


def told(seed: int, budget: str, found: dict[str, Any]) -> None:
    _, before, after = found[budget]
    print(json.dumps({"seed": seed, "model": budget, "before": before, "after": after}), flush=True)


def latencies(models: dict[str, nn.Module], x: torch.Tensor, rounds: int = 15) -> dict[str, float]:
    """Milliseconds of processor time of a batch."""
    taken = defaultdict(list)
    with torch.inference_mode():
        for _ in range(rounds):
            for name, model in models.items():
                model(x)
                start = time.process_time()
                model(x)
                taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, help="images to learn from")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--more", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = prepare(Path(folder), given.data, (SIDE, SIDE), limit=given.limit)
        found = [of_seed(images, seed, given) for seed in range(given.seeds)]
    x = torch.randn(16, images.channels, SIDE, SIDE)
    taken = latencies({name: model for name, (model, _, _) in found[0].items()}, x)
    rows = []
    for name, (model, _, _) in found[0].items():
        before, after = (
            [100 * each[name][place] for each in found] for place in (1, 2)
        )  # fmt: skip
        spread = statistics.stdev(after) if len(after) > 1 else 0.0
        rows.append(
            {
                "model": name,
                "ms": taken[name],
                "multiply_adds": foveate.count_flops(model, x[:1]) // 2,
                "before": statistics.mean(before),
                "after": statistics.mean(after),
                "deviation": spread,
            }
        )
    for row in rows:
        print(row)
    if given.save:
        print(save("reduction_accuracy", {"settings": vars(given), "rows": rows}))


if __name__ == "__main__":
    main()
