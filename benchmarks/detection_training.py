"""Images a second of training a RetinaNet, beside torchvision's on the same backbone and images.

    python -m benchmarks.detection_training SET --backbone mobilenetv3_small_100 --size 240 320

Both have the same backbone, pyramid of five maps, width, convolutions, anchors to a pixel and
optimizer, and learn from the same batches, which are made anew for each. They take turns, a few
steps each, in one thread. Prints both rates, and their ratio with its range over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import OrderedDict
from itertools import islice
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from foveate.data.detection import DetectionSet, prepare_detection
from foveate.data.detection_batches import DetectionBatches, train_detection_batches
from foveate.data.moments import Moments
from foveate.models import create_detector
from foveate.tasks import Detection
from foveate.training.optimizer import create_optimizer
from foveate.training.recipe import Recipe

DIM, CONVS, ANCHOR = 64, 4, 2.0


class Pyramid(nn.Module):
    """The backbone and torchvision's pyramid on it."""

    out_channels = DIM

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.body = timm.create_model(backbone, features_only=True, out_indices=(-3, -2, -1))
        channels: list[int] = self.body.feature_info.channels()  # pyrefly: ignore
        self.fpn = FeaturePyramidNetwork(channels, DIM, LastLevelP6P7(channels[-1], DIM))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(n), y) for n, y in enumerate(self.body(x))))


def torchvision_retinanet(backbone: str, num_classes: int, images: DetectionSet, size) -> RetinaNet:
    """Torchvision's model, which normalises images itself and is to leave their size alone."""
    sizes = tuple(
        tuple(ANCHOR * stride * 2 ** (k / 3) for k in range(3)) for stride in (8, 16, 32, 64, 128)
    )
    return RetinaNet(
        Pyramid(backbone),
        num_classes,
        min_size=min(size),
        max_size=max(size),
        image_mean=images.moments.mean,
        image_std=images.moments.std,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),  # pyrefly: ignore
        head=RetinaNetHead(DIM, 9, num_classes),
    )


class Contestant:
    """A model in training."""

    def __init__(self, model: nn.Module, task: Detection, batches: DetectionBatches) -> None:
        self.model, self.task, self.batches = model.train(), task, batches
        self.optimizer = create_optimizer(model, Recipe(epochs=1, lr=1e-4))

    def rate(self, epoch: int, steps: int) -> float:
        """Images a second over some steps of an epoch."""
        self.batches.set_epoch(epoch)
        start, count = time.perf_counter(), 0
        for batch in islice(self.batches, steps):
            self.optimizer.zero_grad()
            self.task.losses(self.model, batch)["loss"].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            count += len(batch[0])
        return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # pyrefly: ignore
    parser.add_argument("data")
    parser.add_argument("--backbone", default="mobilenetv3_small_100")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(given.size)
    with tempfile.TemporaryDirectory() as directory:
        images = prepare_detection(Path(directory), given.data, size, cache="none")
        task, classes = Detection(images.categories), len(images.categories)
        options = {"dim": DIM, "num_convs": CONVS, "anchor_scale": ANCHOR}
        ours = create_detector("retinanet", given.backbone, classes, head_options=options)
        theirs = torchvision_retinanet(given.backbone, classes, images, size)
        raw = Moments((0.0,) * 3, (1.0,) * 3)
        contestants = {
            name: Contestant(
                model,
                task,
                train_detection_batches(images, size, given.batch_size, 0, normalize=moments),
            )
            for name, model, moments in (("ours", ours, None), ("torchvision", theirs, raw))
        }
        for name, each in contestants.items():
            count = sum(p.numel() for p in each.model.parameters())
            print(f"{name}: {count:,} parameters")
            each.rate(0, 2)
        rates = {name: [] for name in contestants}
        for epoch in range(given.rounds):
            for name, each in contestants.items():
                rates[name].append(each.rate(epoch, given.steps))
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["torchvision"], strict=True))
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):.2f} images a second")
    print(
        f"ratio: {statistics.median(ratios):.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f} over {given.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
