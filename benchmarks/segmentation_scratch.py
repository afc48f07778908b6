"""Train a segmentation network from scratch: mean IoU by processor time, one line a run.

    python -m benchmarks.segmentation_scratch DATA smp/resnet18
    python -m benchmarks.segmentation_scratch DATA upernet/pyramid_pico --lr 0.003 \\
        --backbone-kwargs attention=slide --head-kwargs dim=32

``DATA`` is a folder of images and masks with the splits train, val and test. ``smp`` is
segmentation_models_pytorch's FPN (a pyramid of 128 channels, a head of 64). All learn from the same
crops by the same recipe, in one thread. Seconds are of the process (``time.process_time``): those
of training with the drawing of crops, and those of measuring apart. Validation images are measured
every few epochs, test images as often, or at the end alone. What a run came to is printed as JSON
and added to a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.data.images import prepare_masks
from foveate.data.masked_batches import MaskedBatches, train_crops, whole_images
from foveate.models import create_segmenter
from foveate.tasks import Segmentation
from foveate.tasks.segmentation_metrics import scores_of
from foveate.training import EpochRecord, Recipe, train

SMP_PYRAMID, SMP_HEAD, SMP_MULTIPLE = 128, 64, 32


class Padded(nn.Module):
    """A network that reads multiples of a side, on images of any size: zeros beyond the image."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        more = (0, -width % self.multiple, 0, -height % self.multiple)
        return self.network(nn.functional.pad(x, more))[..., :height, :width]


class Spent:
    """Batches that are timed: from the first one on to after the last one is done with.

    Args:
        batches: whole images.
        every: of how many passes one is made; of the others the first batch alone is.
    """

    def __init__(self, batches: MaskedBatches, every: int) -> None:
        self.batches, self.every = batches, every
        self.passes = 0
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        began = time.process_time()
        for batch in self.batches:
            yield batch
            if self.passes % self.every:
                break
        self.seconds += time.process_time() - began


def build(network: str, classes: int, head: dict[str, Any], backbone: dict[str, Any]) -> nn.Module:
    """The network of a name ``HEAD/BACKBONE``."""
    kind, _, name = network.partition("/")
    if kind != "smp":
        return create_segmenter(kind, name, classes, head_options=head, **backbone)
    import segmentation_models_pytorch as smp

    theirs = smp.FPN(
        f"tu-{name}",
        encoder_weights=None,
        decoder_pyramid_channels=SMP_PYRAMID,
        decoder_segmentation_channels=SMP_HEAD,
        classes=classes,
    )
    return Padded(theirs, SMP_MULTIPLE)


def measure(model: nn.Module, task: Segmentation, batches: MaskedBatches) -> Any:
    """The evaluator, after all batches."""
    model.eval()
    evaluator = task.evaluator()
    with torch.inference_mode():
        for images, labels in batches:
            evaluator.update(task.predict(model, images), labels)
    return evaluator


def options(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` by name; values are JSON, or else words."""
    found = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    images = prepare_masks(folder / "data", given.data, tuple(given.size))
    if images.final is None:
        raise SystemExit(f"{given.data} has no test images beside those for validation")
    torch.manual_seed(given.seed)
    head, backbone = options(given.head_kwargs), options(given.backbone_kwargs)
    model = build(given.network, len(images.classes), head, backbone)
    model = model.to(memory_format=torch.channels_last)  # pyrefly: ignore
    task = Segmentation(len(images.classes))
    crops = train_crops(
        images,
        tuple(given.size),
        given.batch_size,
        given.seed,
        augment_kwargs=options(given.augment_kwargs),
    )
    validation = Spent(whole_images(images, given.batch_size), given.every)
    test = whole_images(images, given.batch_size, split=images.final)
    curve: list[dict[str, float]] = []
    tested = 0.0
    began = time.process_time()

    def report(event: Any) -> None:
        nonlocal tested
        if not isinstance(event, EpochRecord) or event.epoch % given.every:
            return
        spent = time.process_time() - began - validation.seconds - tested
        point = {"epoch": event.epoch, "seconds": round(spent, 1)}
        point["train_loss"] = round(event.values["train_loss"], 4)
        point["val"] = round(100 * event.values["mean_iou"], 2)
        if given.test_curve:
            start = time.process_time()
            found = measure(model, task, test).compute()
            model.train()
            tested += time.process_time() - start
            point["test"] = round(100 * found["mean_iou"], 2)
        curve.append(point)
        print(json.dumps(point), flush=True)

    recipe = Recipe(given.epochs, lr=given.lr)
    train(model, task, crops, validation, recipe, folder, report)
    measuring = validation.seconds + tested
    seconds = time.process_time() - began - measuring
    evaluator = measure(model, task, test)
    ious = scores_of(evaluator.areas.sum(0))["iou"].tolist()
    return {
        **{name: value for name, value in vars(given).items() if name not in ("data", "out")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds, 1),
        "measuring_seconds": round(measuring, 1),
        "test": {name: round(100 * value, 2) for name, value in evaluator.compute().items()},
        "classes": {c: round(100 * iou, 1) for c, iou in zip(images.classes, ious, strict=True)},
        "curve": curve,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("network", help="HEAD/BACKBONE, or smp/BACKBONE")
    parser.add_argument("--head-kwargs", nargs="*", default=[])
    parser.add_argument("--backbone-kwargs", nargs="*", default=[])
    parser.add_argument("--augment-kwargs", nargs="*", default=[])
    parser.add_argument("--size", type=int, nargs=2, default=[96, 128])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=6, help="epochs from measurement to the next")
    parser.add_argument("--test-curve", action="store_true", help="test images as often, too")
    parser.add_argument("--out", type=Path, default=Path("segmentation_scratch.jsonl"))
    given = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = run(given, Path(folder))
    print(json.dumps(found), flush=True)
    with given.out.open("a") as file:
        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
