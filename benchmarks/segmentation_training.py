"""Training speed of Semantic FPN beside segmentation_models_pytorch's FPN, on the same batches.

    python -m benchmarks.segmentation_training DATA [--backbone resnet18] [--size 96 128]

``DATA`` is a folder of images and masks. Both networks have the backbone (timm's), a pyramid of 128
channels and a head of 64; both are trained by AdamW with clipped gradients, in channels_last. They
take turns step by step on the same crops, in a new order each round; a step is forward, loss,
backward and update. ``whole`` adds to both the time in which the crops were drawn. The heads are
not the same: ours, as published, has a 3x3 convolution on every level of the pyramid, theirs has
none, so their multiply-adds are printed beside the times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.analysis.flops import count_flops
from foveate.data.images import prepare_masks
from foveate.data.masked_batches import train_crops
from foveate.models import create_segmenter
from foveate.tasks import Segmentation

PYRAMID, HEAD = 128, 64


def networks(backbone: str, classes: int) -> dict[str, nn.Module]:
    ours = create_segmenter(
        "semantic_fpn", backbone, classes, head_options={"neck_dim": PYRAMID, "dim": HEAD}
    )
    theirs = smp.FPN(
        f"tu-{backbone}",
        encoder_weights=None,
        decoder_pyramid_channels=PYRAMID,
        decoder_segmentation_channels=HEAD,
        classes=classes,
    )
    made = {"foveate": ours, "smp": theirs}
    return {name: m.to(memory_format=torch.channels_last).train() for name, m in made.items()}  # pyrefly: ignore


def stepper(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step(x: Tensor, labels: Tensor) -> float:
        began = time.perf_counter()
        loss = loss_of(x, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = (given.size[0], given.size[1])
    with tempfile.TemporaryDirectory() as folder:
        images = prepare_masks(Path(folder) / "data", given.data, size)
        models = networks(given.backbone, len(images.classes))
        task = Segmentation(len(images.classes))
        steps = {
            "foveate": stepper(
                models["foveate"], lambda x, y: task.losses(models["foveate"], (x, y))["loss"]
            ),
            "smp": stepper(
                models["smp"], lambda x, y: F.cross_entropy(models["smp"](x), y, ignore_index=255)
            ),
        }
        for name, model in models.items():
            count = count_flops(model.eval(), torch.zeros(1, 3, *size)) // 2
            model.train()
            weights = sum(p.numel() for p in model.parameters())
            print(f"{name}: {weights / 1e6:.2f} M parameters, {count / 1e6:,.0f} M multiply-adds")
        crops = train_crops(images, size, given.batch_size, 0)
        found: dict[str, list[float]] = {name: [] for name in steps}
        drawing = []
        done, epoch = 0, 0
        while done <= given.rounds:
            crops.set_epoch(epoch)
            epoch += 1
            batches = iter(crops)
            while done <= given.rounds:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                drawing.append(time.perf_counter() - began)
                order = list(steps)
                random.shuffle(order)
                taken = {name: steps[name](*batch) for name in order}
                if done:  # the first round warms up
                    for name, seconds in taken.items():
                        found[name].append(seconds)
                done += 1
    draw = statistics.median(drawing)
    for what, more in (("step", 0.0), ("whole", draw)):
        ratios = [(b + more) / (a + more) for a, b in zip(*found.values(), strict=True)]
        rates = {
            name: given.batch_size / (statistics.median(s) + more) for name, s in found.items()
        }
        said = ", ".join(f"{name} {rate:.1f} images/s" for name, rate in rates.items())
        print(
            f"{what}: {said}; ours over theirs, median of {len(ratios)} rounds: "
            f"{statistics.median(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
