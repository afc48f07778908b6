"""Training speed of Semantic FPN beside segmentation_models_pytorch's FPN, on the same batches.

    python -m benchmarks.segmentation_training DATA [--backbone resnet18] [--size 96 128]

``DATA`` is a folder of images and masks. All networks have the backbone (timm's) and a head of 64
channels; all are trained by AdamW with clipped gradients, in channels_last. They take turns step by
step on the same crops, in a new order each round; a step is forward, loss, backward and update, in
seconds of the process. ``whole`` adds the time in which the crops were drawn. Ours, as published,
has a 3x3 convolution on every level of the pyramid and theirs has none: so it stands there with
their 128 channels, which costs more; with these, but without those convolutions, which is their
arithmetic; and with as many channels as cost no more. Of ratios the median and the quartiles are
printed.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from foveate.analysis.flops import count_flops
from foveate.data.images import prepare_masks
from foveate.data.masked_batches import train_crops
from foveate.models import create_segmenter
from foveate.tasks import Segmentation

PYRAMID, HEAD = 128, 64


def networks(backbone: str, classes: int, size: tuple[int, int]) -> dict[str, nn.Module]:
    theirs = smp.FPN(
        f"tu-{backbone}",
        encoder_weights=None,
        decoder_pyramid_channels=PYRAMID,
        decoder_segmentation_channels=HEAD,
        classes=classes,
    )
    as_wide = ours(backbone, classes, PYRAMID)
    width = PYRAMID
    while count(ours(backbone, classes, width), size) > count(theirs, size):
        width -= 8
    made = {
        "smp": theirs,
        "foveate, as wide": as_wide,
        "foveate, as wide, no 3x3 in the pyramid": without_convolutions(as_wide),
        f"foveate, as costly ({width})": ours(backbone, classes, width),
    }
    return {name: m.to(memory_format=torch.channels_last) for name, m in made.items()}  # pyrefly: ignore


def ours(backbone: str, classes: int, width: int) -> nn.Module:
    options = {"neck_dim": width, "dim": HEAD}
    return create_segmenter("semantic_fpn", backbone, classes, head_options=options)


def without_convolutions(model: nn.Module) -> nn.Module:
    bare = copy.deepcopy(model)
    blocks: nn.ModuleList = bare.head.neck.layer_blocks  # pyrefly: ignore
    for level in range(len(blocks)):
        blocks[level] = nn.Identity()
    return bare


def count(model: nn.Module, size: tuple[int, int]) -> int:
    return count_flops(model.eval(), torch.zeros(1, 3, *size)) // 2


def stepper(model: nn.Module, task: Segmentation) -> Callable[[Tensor, Tensor], float]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step(x: Tensor, labels: Tensor) -> float:
        began = time.process_time()
        loss = task.losses(model, (x, labels))["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.process_time() - began

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
        models = networks(given.backbone, len(images.classes), size)
        task = Segmentation(len(images.classes))
        steps = {}
        for name, model in models.items():
            cost, weights = count(model, size), sum(p.numel() for p in model.parameters())
            print(f"{name}: {weights / 1e6:.2f} M parameters, {cost / 1e6:,.0f} M multiply-adds")
            steps[name] = stepper(model.train(), task)
        crops = train_crops(images, size, given.batch_size, 0)
        found: dict[str, list[float]] = {name: [] for name in steps}
        drawing = []
        done, epoch = 0, 0
        while done <= given.rounds:
            crops.set_epoch(epoch)
            epoch += 1
            batches = iter(crops)
            while done <= given.rounds:
                began = time.process_time()
                batch = next(batches, None)
                if batch is None:
                    break
                drawing.append(time.process_time() - began)
                order = list(steps)
                random.shuffle(order)
                taken = {name: steps[name](*batch) for name in order}
                if done:  # the first round warms up
                    for name, seconds in taken.items():
                        found[name].append(seconds)
                done += 1
    draw = statistics.median(drawing)
    for what, more in (("step", 0.0), ("whole", draw)):
        for name, mine in found.items():
            rate = given.batch_size / (statistics.median(mine) + more)
            ratios = [(b + more) / (a + more) for a, b in zip(mine, found["smp"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{what}, {name}: {rate:.1f} images/s, {middle:.2f} of smp "
                f"({low:.2f} to {high:.2f}, {len(ratios)} rounds)"
            )


if __name__ == "__main__":
    main()
