"""Put CBAM into a pretrained network without losing it, and fine-tune it on photographs.

The folder holds one folder a class, or ``train/`` and ``val/`` of such. Three models are trained
alike: unchanged, with CBAM that starts as nothing, and with CBAM put in naively; the last two say
what the start is worth. Do not expect that CBAM helps: it may, and this is how to find out.

    python examples/insert_into_pretrained.py flowers/ --model tf_efficientnet_lite0 --epochs 2
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional as F

import foveate
from foveate._random import seed_all
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import ImageSet, prepare
from foveate.surgery.recipe import load, save


def pretrained(name: str, classes: int, weights: Path | None) -> nn.Module:
    """The network with its weights, and a new head."""
    model = timm.create_model(name, pretrained=weights is None, num_classes=classes)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        own = model.state_dict()
        fits = {
            key: tensor
            for key, tensor in zip(own, state.values(), strict=False)
            if own[key].shape == tensor.shape
        }  # by the order of entries, as the published file has other names
        model.load_state_dict(fits, strict=False)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, size: int) -> float:
    """The share of held-out images that are told right."""
    model.eval()
    right = total = 0
    for pixels, labels in held_out_batches(images, (size, size), 32):
        right += int((model(pixels).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def train_head(model: nn.Module, images: ImageSet, size: int, epochs: int) -> None:
    """Fit the new head alone, so that the network has something to lose."""
    head = list(model.get_classifier().parameters())
    optimizer = torch.optim.AdamW(head, lr=3e-3)
    run(model.eval(), optimizer, images, size, epochs)


def fine_tune(model: nn.Module, images: ImageSet, size: int, epochs: int) -> None:
    """Train everything gently, what was added faster; batch statistics stay as they are."""
    new = foveate.added(model)
    known = {id(parameter) for parameter in new}
    rest = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": rest, "lr": 1e-4}, {"params": new, "lr": 1e-3}]
    run(model.eval(), torch.optim.AdamW([g for g in groups if g["params"]]), images, size, epochs)


def run(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: ImageSet, size: int, epochs: int
) -> None:
    """Plain training; the model stays in evaluation mode, so that no statistics move."""
    for epoch in range(epochs):
        for pixels, labels in train_batches(images, (size, size), 32, epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimizer.step()


def main() -> None:
    """Read the command line, change, train, save, load again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of photographs")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", type=Path, help="a file; default: timm's from the network")
    parser.add_argument("--attention", default="cbam")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/insert"))
    given = parser.parse_args()

    seed_all(0)
    images = prepare(given.out / "data", given.data, (given.size, given.size))
    model = pretrained(given.model, len(images.classes), given.weights)
    train_head(model, images, given.size, given.epochs)
    print(f"before: {accuracy(model, images, given.size):.1%}")
    for start in (None, "identity", "naive"):
        changed = copy.deepcopy(model)
        if start is not None:
            foveate.insert(changed, given.attention, start=start)
        told = "unchanged" if start is None else f"{given.attention}, {start} start"
        at_once = accuracy(changed, images, given.size)
        seed_all(0)
        fine_tune(changed, images, given.size, given.epochs)
        print(f"{told}: {at_once:.1%} at once, {accuracy(changed, images, given.size):.1%} tuned")
        if start == "identity":
            print(foveate.changes(changed))
            save(changed, given.out / "changed.safetensors")
            again = timm.create_model(given.model, num_classes=len(images.classes))
            load(again, given.out / "changed.safetensors")
            assert accuracy(again, images, given.size) == accuracy(changed, images, given.size)


if __name__ == "__main__":
    main()
