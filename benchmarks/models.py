"""Whole models beside their peers, in one process: milliseconds a batch, eager and compiled.

The contestants take turns, so that a busy moment strikes all alike; medians are shown.
Models are in eval mode, images 224 x 224, float32.

    python -m benchmarks.models --save
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import nn

import foveate
import foveate.models
from benchmarks.measure import machine, save, timed

PEERS = {"slide_swin_tiny": "swin_tiny_patch4_window7_224"}
"""What each model is measured against."""


def contestants(model: str) -> dict[str, nn.Module]:
    """The model, the same with its parts folded together, and its peer, by name."""
    torch.manual_seed(0)
    return {
        model: timm.create_model(model).eval(),
        f"{model}, fused": foveate.fuse(timm.create_model(model).eval()),
        PEERS[model]: timm.create_model(PEERS[model]).eval(),
    }


@torch.inference_mode()
def measure(model: str, batch: int, prepare: Callable, repetitions: int) -> list[dict]:
    """Milliseconds of each contestant, and how many times the peer's these are."""
    torch.compiler.reset()
    images = torch.randn(batch, 3, 224, 224)
    runs = {name: partial(prepare(net), images) for name, net in contestants(model).items()}
    seconds, peer = timed(runs, repetitions), PEERS[model]
    return [
        {"model": name, "batch": batch, "ms": 1e3 * warm, "of_peer": warm / seconds[peer].warm}
        for name, (warm, _) in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="slide_swin_tiny", choices=PEERS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--eager", action="store_true", help="leave out the compiled models")
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    ways: dict[str, Callable] = {"eager": lambda network: network}
    if not given.eager:
        ways["compiled"] = torch.compile
    rows = []
    print(machine())
    for way, prepare in ways.items():
        for batch in given.batches:
            for row in measure(given.model, batch, prepare, given.repetitions):
                rows.append({"way": way, **row})
                print(
                    f"{way:8} batch {batch:2} {row['model']:30} {row['ms']:8.1f} ms "
                    f"{row['of_peer']:5.2f} times the peer's"
                )
    if given.save:
        print(save(f"models_{given.model}", {"rows": rows}))


if __name__ == "__main__":
    main()
