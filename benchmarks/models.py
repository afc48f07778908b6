"""Every family beside its peer of timm's, in one process: inference and training, by the image.

    python -m benchmarks.models [MODEL ...] [--batches 1 2 16] [--threads N] [--save]

All contestants take turns, so that a busy moment strikes all alike; medians are shown, of a call
that follows another of the same model ("warm") and of the call before it ("cold"). Images are
224 x 224, float32; training is a forward and a backward of the cross-entropy, without an
optimizer's step, of more than one image. With one thread the processor's time is taken, which other
work disturbs less.

Two shares are shown of each: ``of_peer`` is its time over its peer's, which for a gated network is
the network without gates; ``rate`` its multiply-adds a second over those of timm's swin_tiny.
``memory`` is what PyTorch's allocator holds at most for an image of the batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

import foveate
import foveate.models
from benchmarks.measure import machine, peak_memory, save, timed

REFERENCE = "swin_tiny_patch4_window7_224"
PEERS = {
    **dict.fromkeys(
        (
            "nat_mini", "nat_tiny", "dinat_tiny", "dinat_s_tiny", "slide_swin_tiny",
            "slide_nat_tiny", "slide_cswin_tiny", "cswin_tiny", "pale_tiny", "shuffle_tiny",
            "msg_tiny", "acmix_swin_tiny", "dat_tiny",
        ),
        REFERENCE,
    ),
    **dict.fromkeys(
        ("slide_pvt_tiny", "slide_pvt_v2_b2", "pvt_small", "acmix_pvt_tiny", "cvt_13"), "pvt_v2_b2"
    ),
    **dict.fromkeys(("conformer_tiny", "localvit_small", "dsnet_tiny"), "deit_small_patch16_224"),
    **dict.fromkeys(
        (
            "resnet50_triplet", "resnet50_cbam", "resnet50_bam", "rga_resnet50", "ran56", "batnet",
            "sasa_resnet50", "acmix_resnet50", "san10_pairwise", "san10_patchwise", "acmix_san10",
        ),
        "resnet50",
    ),
    **dict.fromkeys(("mobilenetv2_coordinate", "mobilenetv2_triplet"), "mobilenetv2_100"),
    **dict.fromkeys(("mobile_former_151m", "seaformer_large"), "mobilenetv3_large_100"),
    "convnext_tiny": REFERENCE,
}  # fmt: skip
"""What each model is measured against."""


def inference(network: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        network(images)


def training(network: nn.Module, images: torch.Tensor) -> None:
    network.train()
    labels = torch.arange(len(images))
    F.cross_entropy(network(images), labels).backward()
    network.zero_grad(set_to_none=True)
    network.eval()


STEPS: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {
    "inference": inference,
    "training": training,
}


def contestants(models: list[str]) -> dict[str, nn.Module]:
    """The models, their peers and the reference, by name."""
    names = dict.fromkeys([REFERENCE, *(PEERS[name] for name in models), *models])
    torch.manual_seed(0)
    return {name: timm.create_model(name).eval() for name in names}


def measure(
    networks: dict[str, nn.Module], way: str, batch: int, repetitions: int
) -> list[dict[str, Any]]:
    """Of every contestant milliseconds, multiply-adds and bytes an image, and its shares."""
    images = torch.randn(batch, 3, 224, 224)
    runs = {name: partial(STEPS[way], network, images) for name, network in networks.items()}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = timed(runs, repetitions, clock)
    adds = {name: foveate.count_flops(net, images[:1]) // 2 for name, net in networks.items()}
    reference = adds[REFERENCE] / seconds[REFERENCE].warm
    return [
        {
            "way": way,
            "batch": batch,
            "model": name,
            "ms": 1e3 * warm / batch,
            "cold_ms": 1e3 * cold / batch,
            "multiply_adds": adds[name],
            "giga_a_second": adds[name] * batch / warm / 1e9,
            "rate": adds[name] / warm / reference,
            "peer": PEERS.get(name, name),
            "of_peer": warm / seconds[PEERS.get(name, name)].warm,
            "memory": peak_memory(runs[name]) // batch,
        }
        for name, (warm, cold) in seconds.items()
    ]


def shown(row: dict[str, Any]) -> str:
    return (
        f"{row['way']:9} batch {row['batch']:2} {row['model']:28} {row['ms']:7.1f} ms an image, "
        f"cold {row['cold_ms']:7.1f}, {row['giga_a_second']:5.1f} G/s, rate {row['rate']:4.2f}, "
        f"{row['of_peer']:5.2f} times {row['peer']}, {row['memory'] / 2**20:6.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[], metavar="MODEL", help="all by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 16])
    parser.add_argument("--ways", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    unknown = [name for name in given.models if name not in PEERS]
    if unknown:
        parser.error(f"no peer is known of {', '.join(unknown)}; there are {', '.join(PEERS)}")
    torch.set_num_threads(given.threads)
    print(machine())
    networks, rows = contestants(given.models or list(PEERS)), []
    for batch in given.batches:
        # Batch norms of pooled maps cannot learn from one image.
        for way in (way for way in given.ways if batch > 1 or way == "inference"):
            found = measure(networks, way, batch, given.repetitions)
            rows += found
            print("\n".join(map(shown, found)), flush=True)
    if given.save:
        print(save("models", {"rows": rows}))


if __name__ == "__main__":
    main()
