"""Trainings that tests run in one process and in several: ``python -m tests.training.jobs``.

Each job is a function of a directory; what it returns is written as JSON beside it, by every
process for itself.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

import foveate.models  # noqa: F401  its backbones, registered with timm
from foveate._random import seed_all
from foveate.data.annotations.record import Category
from foveate.data.loading import Epochs
from foveate.heads import boxes
from foveate.models import create_detector, create_segmenter
from foveate.surgery.recipe import freeze_norms
from foveate.tasks import Detection, Segmentation
from foveate.training import Distribution, Recipe, train
from tests.training.pictures import Pictures, classifier, numbers, task

JOBS = {}


def job(function):
    JOBS[function.__name__] = function
    return function


class Scenes(Epochs):
    """Images (N, 3, 32, 32) with labels of pixels of 3 classes, of which a different share counts
    in each image, and with boxes: one in the first image, two in the second, and so on."""

    stop = None

    def __init__(self, images: int, batch_size: int, seed: int | None, boxes: bool) -> None:
        super().__init__(images, batch_size, seed)
        generator = torch.Generator().manual_seed(images)
        self.boxes = boxes
        self.pixels = torch.randn(images, 3, 32, 32, generator=generator)
        self.labels = torch.randint(3, (images, 32, 32), generator=generator)
        for number, labels in enumerate(self.labels):
            labels[: 28 * (number % 4) // 3] = 255

    def __iter__(self):
        chunks, _ = self.begin_epoch()
        for chunk in chunks:
            if self.stop == self.epoch:
                raise ZeroDivisionError
            if self.boxes:
                yield list(self.pixels[chunk]), [self._target(i) for i in chunk.tolist()]
            else:
                yield self.pixels[chunk], self.labels[chunk]

    def _target(self, index: int) -> dict[str, torch.Tensor]:
        count = index % 3
        first = torch.arange(count)[:, None] * 3.0 + torch.tensor([[1.0, 2.0]])
        masks = torch.zeros(count, 32, 32, dtype=torch.uint8)
        for number, (x, y) in enumerate(first.long().tolist()):
            masks[number, y : y + 14, x : x + 17] = 1
        return {
            "boxes": torch.cat([first, first + torch.tensor([[17.0, 14.0]])], 1),
            "labels": torch.arange(count) % 2,
            "iscrowd": torch.zeros(count, dtype=torch.bool),
            "area": torch.full((count,), 17 * 14.0),
            "image_id": torch.tensor(index),
            "scale": torch.ones(2),
            "masks": masks,
        }


def finished(model, result) -> dict:
    """What is compared: the epochs' numbers, the order of what was measured, a sum of weights."""
    state = model.state_dict()
    weights = {k: v.double().abs().sum().item() for k, v in state.items() if v.is_floating_point()}
    return {
        "history": numbers(result),
        "values": result.values,
        "images": result.images,
        "weights": weights,
    }


@job
def classification(directory: Path, **options) -> dict:
    model = classifier()
    recipe = Recipe(**{"epochs": 2, "lr": 0.01, **options.pop("recipe", {})})
    result = train(
        model, task(), Pictures(24, 8, 1), Pictures(11, 4, None), recipe, directory, **options
    )
    predicted, labels = result.evaluator.classes
    return finished(model, result) | {"predicted": predicted.tolist(), "labels": labels.tolist()}


@job
def by_lightning(directory: Path) -> dict:
    return classification(directory, distribution=Distribution(devices=2, timeout=120))


@job
def long(directory: Path) -> dict:
    """Long enough to be ended from outside."""
    return classification(
        directory,
        recipe={"epochs": 20, "ema_decay": 0.9},
        distribution=Distribution(timeout=120),
    )


@job
def everything(directory: Path) -> dict:
    """Accumulation, the average, layer decay, an epoch chosen, bf16: a ViT."""
    seed_all(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, num_classes=3, depth=2, embed_dim=12,
        num_heads=2,
    )  # fmt: skip
    recipe = Recipe(epochs=2, lr=0.01, accumulate=2, ema_decay=0.9, layer_decay=0.7)
    result = train(
        model, task(), Pictures(24, 4, 1), Pictures(11, 4, None), recipe, directory,
        selection=Pictures(7, 3, None),
    )  # fmt: skip
    return finished(model, result)


def _gone_on(directory: Path, model, task, learning, held_out, **recipe) -> dict:
    """In several processes sharded; cut off in the second epoch and gone on with."""
    sharded = Distribution(strategy="fsdp") if "RANK" in os.environ else Distribution()
    recipe = Recipe(epochs=3, lr=1e-3, ema_decay=0.5, **recipe)
    first = copy.deepcopy(model)
    learning.stop = 1
    with contextlib.suppress(ZeroDivisionError):
        train(first, task, learning, held_out, recipe, directory, distribution=sharded)
    learning.stop = None
    result = train(model, task, learning, held_out, recipe, directory, distribution=sharded)
    saved = load_file(directory / "model.safetensors")
    return {
        "history": numbers(result),
        "values": result.values,
        "weights": {k: v.double().abs().sum().item() for k, v in saved.items()},
    }


@job
def vit(directory: Path) -> dict:
    seed_all(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, num_classes=3, depth=3, embed_dim=15,
        num_heads=3,
    )  # fmt: skip
    return _gone_on(
        directory, model, task(), Pictures(24, 4, 1), Pictures(11, 4, None),
        accumulate=2, layer_decay=0.7,
    )  # fmt: skip


@job
def pyramid(directory: Path) -> dict:
    seed_all(0)
    model = create_segmenter(
        "semantic_fpn", "slide_pvt_tiny", 3, depths=(1, 2, 1, 1), dims=(16, 16, 16, 16),
        num_heads=(1, 1, 1, 1), head_options={"dim": 16, "dropout": 0.0},
    )  # fmt: skip
    freeze_norms(model)
    return _gone_on(
        directory, model, Segmentation(3, dice=0.5), Scenes(8, 4, 1, boxes=False),
        Scenes(5, 2, None, boxes=False),
    )  # fmt: skip


@job
def segmentation(directory: Path) -> dict:
    seed_all(0)
    model = create_segmenter(
        "semantic_fpn", "slide_pvt_tiny", 3, depths=(1, 1, 1, 1), dims=(16, 16, 16, 16),
        num_heads=(1, 1, 1, 1), head_options={"dim": 16, "dropout": 0.0},
    )  # fmt: skip
    freeze_norms(model)  # moments are of each process's own images
    chosen = Segmentation(3, class_weights=[1.0, 2.0, 0.5], dice=0.5)
    learning, held_out = Scenes(8, 4, 1, boxes=False), Scenes(5, 2, None, boxes=False)
    result = train(model, chosen, learning, held_out, Recipe(epochs=2), directory)
    return finished(model, result) | {"areas": result.evaluator.areas.tolist()}


def _detection(directory: Path, name: str, **options) -> dict:
    seed_all(0)
    model = create_detector(
        name, "slide_pvt_tiny", 2, depths=(1, 1, 1, 1), dims=(16, 16, 16, 16),
        num_heads=(1, 1, 1, 1), head_options={"dim": 16, **options},
    )  # fmt: skip
    chosen = Detection([Category(1, "a"), Category(2, "b")], masks=name == "mask_rcnn")
    learning, held_out = Scenes(8, 4, 1, boxes=True), Scenes(5, 2, None, boxes=True)
    result = train(model, chosen, learning, held_out, Recipe(epochs=2, lr=1e-3), directory)
    return finished(model, result)


@job
def retinanet(directory: Path) -> dict:
    return _detection(directory, "retinanet", num_convs=1)


@job
def mask_rcnn(directory: Path) -> dict:
    """With the first regions in place of some at random, which each process draws for itself."""
    before = boxes._some
    boxes._some = lambda mask, number: mask.nonzero().flatten()[:number]
    try:
        return _detection(directory, "mask_rcnn", fc_dim=16)
    finally:
        boxes._some = before


def fork_two() -> None:
    """Go on as two processes, as ``torchrun`` would start them; this one waits for them.

    What takes longest, the imports, is done once.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "GROUP_RANK": 0,
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    os.environ.update({name: str(value) for name, value in shared.items()})
    children = []
    for rank in (0, 1):
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        children.append(os.fork())
        if not children[-1]:
            return
    sys.exit(max(os.waitpid(child, 0)[1] != 0 for child in children))


def main() -> None:
    if sys.argv[1] == "--two":
        del sys.argv[1]
        fork_two()
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    for name in sys.argv[2:]:
        directory = root / name
        directory.mkdir(exist_ok=True)
        found = JOBS[name](directory)
        (root / f"{name}.{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
