"""Reduced models on real images: accuracy beside latency, without and with training on.

    python -m benchmarks.reduction_accuracy DATA [--limit N] [--epochs 15] [--more 1] [--save]

A small vision transformer learns DATA (what ``foveate compare --data`` takes) from scratch,
and goes on for ``more`` epochs, so that what is reduced has no advantage by training longer. Each
reducer at each budget is applied to the model before that, measured as it is, trained on for
``more`` epochs with what it asks for and the unreduced model as its teacher, and measured again.
VTP is trained with its scores for ``more`` epochs, pruned, and trained for as many again. DVT's
exits are trained together; its thresholds are solved on one half of the held-out images for the
other half, and the other way round. Latency is processor time of a batch of 16 held-out images, one
thread, the contestants in turns; medians. Accuracies are means over seeds of the whole. A line for
every training is printed as JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

import foveate
from benchmarks.measure import save
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.reduction.early_exit import exits_taken, solve_budget
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
CHANNELS = (0.8, 0.6, 0.4)  # that VTP keeps
COSTS = (0.4, 0.6, 0.8)  # of DVT, as shares of the whole model's


class Measured(NamedTuple):
    """A contestant of one seed: accuracies are shares, ``before`` where it is one at all."""

    model: nn.Module
    before: float | None
    after: float
    multiply_adds: int


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


def cost(model: nn.Module, images: ImageSet) -> int:
    return foveate.count_flops(model, torch.randn(1, images.channels, SIDE, SIDE)) // 2


def of_seed(images: ImageSet, seed: int, given: argparse.Namespace) -> dict[str, Measured]:
    """The models of a seed by budget, with their accuracies before and after training on."""
    torch.manual_seed(seed)
    classes = len(images.classes)
    task = Classification(classes)
    options = {**NARROW, "in_chans": images.channels}
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **options)
    whole = trained(whole, task, images, Recipe(given.epochs, lr=1e-3), seed)
    on = Recipe(given.more, lr=2e-4, warmup_epochs=0, added_lr_scale=5)
    learnt = ReducedClassification(task, teacher=whole)
    found: dict[str, Measured] = {}

    def told(name: str, model: nn.Module, before: float | None, after: float, adds: int) -> None:
        found[name] = Measured(model, before, after, adds)
        line = {"seed": seed, "model": name, "before": before, "after": after, "cost": adds}
        print(json.dumps(line), flush=True)

    def reduced(text: str) -> nn.Module:
        entry = Entry.read(text)
        torch.manual_seed(seed)
        return foveate.reduce(copy.deepcopy(whole), entry.name, **entry.kwargs)

    before = accuracy(whole, images)
    longer = trained(copy.deepcopy(whole), task, images, on, seed)
    told(WHOLE, longer, before, accuracy(longer, images), cost(longer, images))
    for budget in BUDGETS:
        model = reduced(budget)
        before = accuracy(model, images)
        model = trained(model, learnt, images, on, seed)
        told(budget, model, before, accuracy(model, images), cost(model, images))
    for keep in CHANNELS:
        model = trained(reduced(f"vtp:keep={keep}"), learnt, images, on, seed)
        foveate.reduction.finish(model)
        before = accuracy(model, images)
        model = trained(model, learnt, images, on, seed)
        told(f"vtp:keep={keep}", model, before, accuracy(model, images), cost(model, images))
    cascade = trained(reduced("dvt"), learnt, images, on, seed)
    for share in COSTS:
        budget = share * found[WHOLE].multiply_adds
        model, after, adds = left_early(copy.deepcopy(cascade), images, budget)
        told(f"dvt at {share} of the cost", model, None, after, adds)
    return found


def left_early(cascade: Any, images: ImageSet, budget: float) -> tuple[nn.Module, float, int]:
    """The cascade with thresholds of all images held out; its accuracy and mean cost, each half's
    by the thresholds of the other half."""
    with torch.inference_mode():
        outputs = [
            (torch.stack(cascade.eval().exits(x)).float(), labels)
            for x, labels in held_out_batches(images, (SIDE, SIDE), BATCH)
        ]
    logits = torch.cat([each for each, _ in outputs], 1)  # (exits, images, classes)
    labels = torch.cat([each for _, each in outputs])
    confidence, costs = logits.softmax(-1).amax(-1), cascade.exit_multiply_adds((SIDE, SIDE))
    number = torch.arange(len(labels))
    right, total = 0, 0.0
    for half in (number % 2 == 0, number % 2 == 1):
        thresholds, _ = solve_budget(confidence[:, ~half], costs, budget)
        taken = exits_taken(confidence[:, half], thresholds)
        chosen = logits[:, half].argmax(-1).gather(0, taken[None])[0]
        right += int((chosen == labels[half]).sum())
        total += sum(costs[exit] for exit in taken.tolist())
    cascade.set_thresholds(solve_budget(confidence, costs, budget)[0])
    return cascade, right / len(labels), round(total / len(labels))


def latencies(
    models: dict[str, nn.Module], batches: list[torch.Tensor], rounds: int = 15
) -> dict[str, float]:
    """Milliseconds of processor time of a batch, in the mean over ``batches``."""
    taken = defaultdict(list)
    with torch.inference_mode():
        for _ in range(rounds):
            for name, model in models.items():
                model(batches[0])
                start = time.process_time()
                for x in batches:
                    model(x)
                taken[name].append(1e3 * (time.process_time() - start) / len(batches))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, help="images to learn from")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--more", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = prepare(Path(folder), given.data, (SIDE, SIDE), limit=given.limit)
        found = [of_seed(images, seed, given) for seed in range(given.seeds)]
        shown = (x for x, _ in held_out_batches(images, (SIDE, SIDE), 16))
        batches = list(itertools.islice(shown, 8))
    taken = latencies({name: each.model for name, each in found[0].items()}, batches)
    rows = []
    for name in found[0]:
        of_seeds = [seed[name] for seed in found]
        after = [100 * each.after for each in of_seeds]
        before = [100 * each.before for each in of_seeds if each.before is not None]
        rows.append(
            {
                "model": name,
                "ms": taken[name],
                "multiply_adds": statistics.mean(each.multiply_adds for each in of_seeds),
                "before": statistics.mean(before) if before else None,
                "after": statistics.mean(after),
                "deviation": statistics.stdev(after) if len(after) > 1 else 0.0,
            }
        )
    for row in rows:
        print(row)
    if given.save:
        print(save("reduction_accuracy", {"settings": vars(given), "rows": rows}))


if __name__ == "__main__":
    main()
