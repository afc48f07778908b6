"""Training in two processes: data parallel without searching for unused parameters, and sharded."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import foveate.models  # noqa: F401  registers the backbones
from tests.models.small import SMALL

PROCESSES = 2
OF_EACH_KIND = ("pvt_tiny", "slide_swin_tiny", "nat_small", "resnet50_bam", "mobile_former_26m")
"""Tokens, windows and shifts, neighborhoods, gates after convolutions, two branches."""


def create(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=7, **SMALL[name])


def images(seed: int) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def data_parallel(rank: int, name: str) -> None:
    """Two steps, the second of which is refused where a parameter got no gradient in the first."""
    model = DistributedDataParallel(create(name), find_unused_parameters=False)
    for step in range(2):
        model(images(PROCESSES * step + rank)).square().mean().backward()
    sums = torch.stack([p.grad.double().sum() for p in model.parameters() if p.requires_grad])
    each = [torch.empty_like(sums) for _ in range(PROCESSES)]
    distributed.all_gather(each, sums)
    assert torch.equal(*each)


def sharded(rank: int, name: str) -> None:
    """Stages and the rest sharded: the same logits as whole, and gradients for every shard."""
    model, whole = create(name), create(name)
    for stage in model.stages if hasattr(model, "stages") else model.children():
        fully_shard(stage)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    x = images(rank)
    torch.testing.assert_close(model.eval()(x), whole.eval()(x), rtol=1e-4, atol=1e-5)
    model.train()(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def process(rank: int, check: str, name: str, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES
    )
    try:
        {"data_parallel": data_parallel, "sharded": sharded}[check](rank, name)
    finally:
        distributed.destroy_process_group()


def run(check: str, name: str, folder: Path) -> None:
    multiprocessing.spawn(process, (check, name, str(folder / "store")), PROCESSES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALL)
def test_data_parallel_finds_no_unused_parameter(name, tmp_path):
    run("data_parallel", name, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_stages_are_sharded(name, tmp_path):
    run("sharded", name, tmp_path)
