"""Models too large for one device: each process holds a part of every tensor; PyTorch's FSDP2.

Weights, gradients, the optimizer's moments and the average of the weights are cut along their first
axis. A unit's weights are put together before it runs, forward and backward, and given up after it:
the units are the blocks of timm's models (the members of every list called ``blocks``), and what is
left is one more. A model without such lists is one unit, and its weights are whole while it runs.

An evaluation runs on whole weights, in every process, since images of different sizes ask for
different numbers of passes, and a unit is put together by all processes at once. Checkpoints and
final weights are whole too: a training goes on with another number of devices, or without sharding.
Each process builds the whole model before it is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from foveate.saved.info import ModelInfo
from foveate.training.checkpoint import load_weights, save_weights
from foveate.training.module import Trained

_BLOCKS = "blocks"


class ShardedTrained(Trained):
    """A model in parts, one a process; and a whole one without numbers, for evaluations."""

    def __init__(self, model: nn.Module, *args: Any) -> None:
        super().__init__(model, *args)
        self._whole = (_emptied(self.model),)  # in a tuple, so that it is no part of the state
        self._is_cut = False
        if self.average is not None:
            self.average.foreach = False  # buffers are whole: operators on lists take no mixture

    def configure_model(self) -> None:
        if self._is_cut:
            return
        self._is_cut = True
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for model in (self.model, *([] if self.average is None else [self.average.module])):
            for tensor in model.state_dict().values():
                there = tensor.to(mesh.device_type)
                distributed.broadcast(there, 0)
                tensor.copy_(there)
            for unit in _units(model):
                fully_shard(unit, mesh=mesh)
            fully_shard(model, mesh=mesh)

    @property
    def judged(self) -> nn.Module:
        return self._whole[0]

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._put_together()

    def on_validation_epoch_end(self) -> None:
        _empty(self.judged)

    def write(self, path: Path, info: ModelInfo | None = None) -> None:
        self._put_together()
        if self.trainer.is_global_zero:
            save_weights(self.judged, path, info)
        _empty(self.judged)

    def read(self, path: Path) -> None:
        whole = self._put_together()
        load_weights(whole, path)
        _set_state(self._in_parts(), whole.state_dict())

    def finish(self) -> None:
        """The model stays in parts."""

    def _in_parts(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _put_together(self) -> nn.Module:
        """Give the whole model the numbers; all processes call this."""
        parts = self._in_parts()
        state = get_model_state_dict(parts, options=StateDictOptions(full_state_dict=True))
        self.judged.load_state_dict(state, assign=True)
        return self.judged.to(self.device).eval()


def _units(model: nn.Module) -> list[nn.Module]:
    """What is put together at once, but for the rest; inner ones first."""
    lists = [part for name, part in model.named_modules() if name.split(".")[-1] == _BLOCKS]
    found = [unit for part in lists for unit in part.children() if len(list(unit.parameters()))]
    return found[::-1]


def _emptied(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without numbers, but for buffers."""
    whole = copy.deepcopy(model)
    _empty(whole)
    return whole


def _empty(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            nothing = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            setattr(module, name, nothing)


@torch.no_grad()
def _set_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model in parts the numbers of a whole ``state``, which every process has.

    PyTorch's ``set_model_state_dict`` cuts tensors whose first axis is one along another.
    """
    for name, mine in model.state_dict().items():
        whole = state[name].to(mine.device)
        if isinstance(mine, DTensor):
            whole = distribute_tensor(whole, mine.device_mesh, mine.placements, src_data_rank=None)
        mine.copy_(whole)


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints in the form of a training in one process.

    Args:
        processes: that share the model.
        timeout: that one waits for another.
    """

    def __init__(self, processes: int, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """As ``optimizer.state_dict()`` gives it, whole, in the first process."""
        assert self.model is not None
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named = get_optimizer_state_dict(self.model, optimizer, options=options)
        if not named:
            return named
        groups: Any = named["param_groups"]
        numbers = {
            name: number
            for number, name in enumerate(name for group in groups for name in group["params"])
        }
        return {
            "state": {numbers[name]: state for name, state in named["state"].items()},
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]} for group in groups
            ],
        }

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
        assert self.model is not None
        _set_state(self.model, checkpoint["state_dict"])
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(
                self.model, optimizer, self._named(optimizer, state), options=options
            )
        return checkpoint

    def _named(self, optimizer: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state of an optimizer by names of parameters."""
        assert self.model is not None
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        names = [by_id[id(p)] for group in optimizer.param_groups for p in group["params"]]
        return {
            "state": {names[number]: each for number, each in state["state"].items()},
            "param_groups": [
                {**group, "params": [names[number] for number in group["params"]]}
                for group in state["param_groups"]
            ],
        }
