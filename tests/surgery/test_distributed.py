"""Two processes train a changed model: what was put in is exchanged like everything else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import foveate
from tests.surgery.models import images, resnet, vit

PROCESSES = 2


def _changed(build) -> tuple[nn.Module, int]:
    """The same changed model on every process, with gates that do something."""
    torch.manual_seed(0)
    model = build()
    if build is resnet:
        foveate.insert(model, "cbam", where="layer[34]*")
    else:
        foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    for parameter in foveate.added(model):
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model, 64 if build is resnet else 32


def _expected(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mean over the processes of the gradients that each has for its own images."""
    alone = copy.deepcopy(model)
    alone(x).square().sum().backward()
    found = {}
    for name, parameter in alone.named_parameters():
        found[name] = parameter.grad.clone()
        distributed.all_reduce(found[name])
        found[name] /= PROCESSES
    return found


def _largest(model: nn.Module, expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far gradients are from the expected ones, of the model's own and of what was added."""
    ours = {id(p) for p in foveate.added(model)}
    far = {"own": 0.0, "added": 0.0}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
        kind = "added" if id(parameter) in ours else "own"
        scale = float(expected[name].abs().max()) + 1e-6
        far[kind] = max(far[kind], float((grad - expected[name]).abs().max()) / scale)
    return far | {"count": len(ours), "moved": float(max(
        expected[n].abs().max() for n, p in model.named_parameters() if id(p) in ours
    ))}  # fmt: skip


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    found = {}
    for build in (resnet, vit):
        for wrap in ("ddp", "fsdp"):
            model, size = _changed(build)
            torch.manual_seed(1 + rank)
            x = images(size)
            model.train()
            expected = _expected(model, x)
            recipe = foveate.changes(model).recipe
            if wrap == "ddp":
                run = DistributedDataParallel(model)
                with pytest.raises(ValueError, match="wrapped in DistributedDataParallel already"):
                    foveate.insert(run, "cbam")
            else:
                mesh = init_device_mesh("cpu", (PROCESSES,))
                for part in (model.layer4, model.fc) if build is resnet else model.blocks:
                    fully_shard(part, mesh=mesh)
                run = fully_shard(model, mesh=mesh)
                with pytest.raises(ValueError, match="sharded already"):
                    foveate.insert(run, "cbam")
            run(x).square().sum().backward()
            far = _largest(model, expected)
            torch.optim.SGD(run.parameters(), 1e-3).step()
            assert foveate.changes(model).recipe == recipe
            found[f"{build.__name__} {wrap}"] = far
    torch.save(found, f"{folder}/found{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_work, (str(folder),), nprocs=PROCESSES)
    return [torch.load(Path(folder) / f"found{rank}") for rank in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["resnet ddp", "resnet fsdp", "vit ddp", "vit fsdp"])
def test_gradients_are_the_mean_over_the_processes(found, case):
    for rank in range(PROCESSES):
        far = found[rank][case]
        assert far["count"] > 0
        assert far["moved"] > 1e-4
        assert far["added"] < 1e-3
        assert far["own"] < 1e-3


def test_a_model_that_is_wrapped_already_is_refused():
    model = resnet()
    for call in (foveate.insert, lambda m, g: foveate.replace(m, "conv", "neighborhood")):
        with pytest.raises(ValueError, match="wrapped in DataParallel already"):
            call(nn.DataParallel(model), "cbam")
    assert not any("foveate" in name for name in model.state_dict())
