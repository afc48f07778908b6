"""Norms with an activation keep it when PyTorch makes them synchronise."""

from __future__ import annotations

from timm.layers.norm_act import SyncBatchNormAct
from torch import nn


class KeepsActivations(nn.Module):
    """A network that ``nn.SyncBatchNorm.convert_sync_batchnorm`` converts rightly.

    PyTorch knows nothing of timm's norms that activate: it puts a norm in their place which holds
    the activation, and never runs it. Timm's ``convert_sync_batchnorm`` puts its own there; so does
    this, once PyTorch hands a converted part back.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        for part in () if module is None else module.modules():
            if type(part) is nn.SyncBatchNorm and hasattr(part, "act"):
                # Its class alone is wrong: weights, statistics and activation are all there.
                part.__class__ = SyncBatchNormAct
        super().add_module(name, module)
