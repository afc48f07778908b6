"""A reduced model's time and memory beside its multiply-adds, over those of the model as it was.

    python -m benchmarks.reduction [--model deit_small_patch16_224] [--batch 16] [--rounds 9]
        [--reduce dynamicvit:keep=0.7 tome:r=13] [--save]

Contestants take turns; times are medians over the rounds, by the clock and by the processor's time,
which other work on the machine disturbs less. ``overhead`` is the share of time over the share of
multiply-adds: one where what is saved in arithmetic is saved in time. The model's weights are
random, and so is which tokens go; how many does not depend on that.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import timm
import torch
from torch import nn

import foveate
from benchmarks.measure import peak_memory, save
from foveate.study.entry import Entry

REDUCERS = ("dynamicvit:keep=0.7", "tome:r=13")


def contestants(name: str, reducers: list[str]) -> dict[str, nn.Module]:
    """The model as it is, and reduced in each way."""
    torch.manual_seed(0)
    plain = timm.create_model(name).eval()
    models = {"as it was": plain}
    for text in reducers:
        entry = Entry.read(text)
        models[text] = foveate.reduce(copy.deepcopy(plain), entry.name, **entry.kwargs).eval()
    return models


def rows(models: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """Of each contestant multiply-adds, seconds and bytes, and their shares of the first's."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    with torch.inference_mode():
        for round_ in range(rounds + 1):
            for name, model in models.items():
                clock, processor = time.perf_counter(), time.process_time()
                model(images)
                passed = time.perf_counter() - clock, time.process_time() - processor
                if round_:  # the first one warms up
                    taken[name].append(passed)
        memory = {name: peak_memory(lambda m=m: m(images)) for name, m in models.items()}
    found = []
    for name, model in models.items():
        clock, processor = (statistics.median(times) for times in zip(*taken[name], strict=True))
        found.append(
            {
                "model": name,
                "multiply_adds": foveate.count_flops(model, images[:1]) // 2,
                "seconds": clock,
                "processor_seconds": processor,
                "bytes": memory[name],
            }
        )
    first = found[0]
    for row in found:
        for key in ("multiply_adds", "seconds", "processor_seconds", "bytes"):
            row[f"{key}_share"] = row[key] / first[key]
        row["overhead"] = row["seconds_share"] / row["multiply_adds_share"]
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | G multiply-adds | share | seconds | share | processor's time, share "
        "| overhead | MiB at most | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, found)])


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['model']} | {row['multiply_adds'] / 1e9:.3f} "
        f"| {row['multiply_adds_share']:.3f} | {row['seconds']:.3f} "
        f"| {row['seconds_share']:.3f} | {row['processor_seconds_share']:.3f} "
        f"| {row['overhead']:.3f} | {row['bytes'] / 2**20:.1f} | {row['bytes_share']:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reduce", nargs="*", default=list(REDUCERS), metavar="NAME:key=value")
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.randn(options.batch, 3, options.size, options.size)
    found = rows(contestants(options.model, options.reduce), images, options.rounds)
    print(table(found))
    if options.save:
        print(save("reduction", {"batch": options.batch, "model": options.model, "rows": found}))


if __name__ == "__main__":
    main()
