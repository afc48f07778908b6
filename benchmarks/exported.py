"""Exported layers and networks in the runtimes that run them, beside what else there is.

A layer is measured beside its published form: neighborhood attention beside im2col, slide attention
beside depthwise convolutions, window attention beside timm's block. Both are exported as
``foveate.export`` does it, with fixed size, and have the same projections. Networks are measured
beside themselves in PyTorch, and beside timm's Swin exported alike.

Contestants take turns on one thread; a turn is two calls, of which the second counts. Processor
time is measured, of all threads of the process, so that waiting for a busy machine counts little.
ONNX Runtime and OpenVINO compute in float32; OpenVINO's default may be bfloat16.

    OMP_NUM_THREADS=1 python -m benchmarks.exported layers --save
    OMP_NUM_THREADS=1 python -m benchmarks.exported nat_mini swin_tiny_patch4_window7_224 --save
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

import foveate
import foveate.models
from benchmarks.measure import machine, save
from benchmarks.peers import by_depthwise, by_unfold
from foveate.analysis.flops import count_flops
from foveate.deploy.format import Runner
from foveate.deploy.onnx import Onnx
from foveate.deploy.openvino import OpenVino
from foveate.deploy.program import Deployment, quiet
from foveate.deploy.request import Request

Run = Callable[[], object]
RUNTIMES = ("onnxruntime", "openvino", "executorch")
DIM, HEADS, SIDE = 96, 3, 56


class Published(nn.Module):
    """A layer of ours with another function of q, k, v between its projections."""

    def __init__(self, layer: nn.Module, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.qkv, self.proj, self.attend = layer.qkv, layer.proj, attend

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, HEADS, -1)).unbind(3)
        return self.proj(self.attend(q, k, v).flatten(3)).permute(0, 3, 1, 2)


class SwinAttention(nn.Module):
    """Window attention as timm has it: roll, partition, and back."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.block = SwinTransformerBlock(DIM, (SIDE, SIDE), HEADS, window_size=7, shift_size=shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.block._attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ZeroBorder(nn.Module):
    """Neighborhood attention with zeros beyond the border, for what moving windows inward costs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.rpb = layer.qkv, layer.proj, layer.rpb

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, HEADS, -1)).unbind(3)
        y = foveate.ops.local_attention(q, k, v, 7, bias=self.rpb, border="zero")
        return self.proj(y.flatten(3)).permute(0, 3, 1, 2)


def layers() -> dict[str, dict[str, nn.Module]]:
    """Contestants by group; the first is ours and the second the published form."""

    def create(name: str, **options: Any) -> nn.Module:
        return foveate.fuse(foveate.create_attention(name, DIM, num_heads=HEADS, **options).eval())

    near = create("neighborhood", kernel_size=7)
    slide = create("slide", kernel_size=3)
    kernels = [x.detach() for x in slide.kernels()]
    depthwise = partial(by_depthwise, weights=kernels, kernel=3)
    found: dict[str, dict[str, nn.Module]] = {
        "neighborhood 7x7": {
            "ours": near,
            "im2col": Published(near, partial(by_unfold, kernel=7)),
            "ours, zero border": ZeroBorder(near),
        },
        "slide 3x3": {"ours": slide, "depthwise convolutions": Published(slide, depthwise)},
    }
    for shift in (0, 3):
        found[f"window 7x7, shift {shift}"] = {
            "ours": create("window", window_size=7, shift_size=shift),
            "timm's block": SwinAttention(shift),
        }
    return found


def by_pytorch(model: nn.Module, x: Tensor) -> Run:
    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def by_executorch(deployment: Deployment, x: Tensor) -> Run:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyrefly: ignore[missing-import]
    from executorch.exir import to_edge_transform_and_lower  # pyrefly: ignore[missing-import]
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass  # pyrefly: ignore[missing-import]
    from executorch.runtime import Runtime  # pyrefly: ignore[missing-import]

    with quiet():
        exported = constant_prop_pass(deployment.program.run_decompositions({}))
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        program = lowered.to_executorch()
    loaded = Runtime.get().load_program(program.buffer)
    method = loaded.load_method("forward")
    return lambda: (program, loaded, method.execute([x])[0])[-1]


@torch.no_grad()
def runs_of(model: nn.Module, x: Tensor, runtimes: list[str]) -> dict[str, Run]:
    """The model in PyTorch and in each runtime, each checked against the first."""
    model = model.eval()
    found = {"pytorch": by_pytorch(model, x)}
    deployment = Deployment.of(model, Request((x.shape[2], x.shape[3]), x.shape[1]))
    with tempfile.TemporaryDirectory() as folder:
        for runtime, format_ in (("onnxruntime", Onnx()), ("openvino", OpenVino())):
            if runtime in runtimes:
                path = Path(folder) / f"{runtime}{format_.suffix}"
                format_.write(deployment, path)
                run = format_.open(path, threads=1)
                found[runtime] = partial(_first, run, x)
    if "executorch" in runtimes:
        found["executorch"] = by_executorch(deployment, x)
    expected = model(x).numpy()
    for name, run in found.items():
        difference = np.abs(np.asarray(run()) - expected).max() / np.abs(expected).max()
        if not difference < 1e-4:
            raise SystemExit(f"{name} is {difference:.1e} off")
    return found


def _first(run: Runner, x: Tensor) -> Tensor:
    return run(x)[0]


def timed(runs: dict[Any, Run], repetitions: int) -> dict[Any, float]:
    """Milliseconds of processor time a call, the median; the contestants take turns."""
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            run()
            start = time.process_time()
            run()
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def measure_layers(runtimes: list[str], repetitions: int) -> list[dict]:
    x = torch.randn(1, DIM, SIDE, SIDE)
    rows = []
    for group, members in layers().items():
        runs = {
            (runtime, name): run
            for name, module in members.items()
            for runtime, run in runs_of(module, x, runtimes).items()
        }
        taken = timed(runs, repetitions)
        for (runtime, name), ms in taken.items():
            rows.append(
                {
                    "layer": group,
                    "form": name,
                    "runtime": runtime,
                    "batch": 1,
                    "ms": ms,
                    "times_ours": ms / taken[runtime, "ours"],
                }
            )
    return rows


def measure_models(names: list[str], runtimes: list[str], repetitions: int) -> list[dict]:
    x = torch.randn(1, 3, 224, 224)
    models = {name: foveate.fuse(timm.create_model(name).eval()) for name in names}
    runs = {
        (name, runtime): run
        for name, model in models.items()
        for runtime, run in runs_of(model, x, runtimes).items()
    }
    taken = timed(runs, repetitions)
    rows = []
    for (name, runtime), ms in taken.items():
        multiply_adds = count_flops(models[name], x) / 2
        rows.append(
            {
                "model": name,
                "runtime": runtime,
                "ms": ms,
                "of_eager": ms / taken[name, "pytorch"],
                "ms_per_giga_multiply_add": 1e9 * ms / multiply_adds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", help='"layers", or names of networks')
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES[:2], choices=RUNTIMES)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine())
    if given.what == ["layers"]:
        rows = measure_layers(given.runtimes, given.repetitions)
    else:
        rows = measure_models(given.what, given.runtimes, given.repetitions)
    for row in rows:
        cells = (f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values())
        print("  ".join(f"{cell:>20}" for cell in cells))
    if given.save:
        name = "layers" if given.what == ["layers"] else "models"
        print(save(f"exported_{name}", {"load": os.getloadavg(), "rows": rows}))


if __name__ == "__main__":
    main()
