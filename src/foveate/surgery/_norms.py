"""Batch norms that keep their statistics in training: a hook that puts each into evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def hold(norms: Iterable[nn.Module]) -> int:
    """Let norms use their running statistics in training; gives how many did not before."""
    fresh = [module for module in norms if not is_held(module)]
    for module in fresh:
        module.register_forward_pre_hook(_hold_statistics)
    return len(fresh)


def release(norms: Iterable[nn.Module], training: bool) -> None:
    """The inverse of :func:`hold`; the norms are then in the given mode."""
    for module in norms:
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _hold_statistics:
                del module._forward_pre_hooks[key]
                module.training = training


def is_held(module: nn.Module) -> bool:
    """Whether a norm keeps its statistics."""
    return any(hook is _hold_statistics for hook in module._forward_pre_hooks.values())


def norms_of(model: nn.Module, without: Iterable[nn.Module] = ()) -> list[nn.Module]:
    """The modules with running statistics, without those inside of some."""
    ours = {m for module in without for m in module.modules()}
    return [
        m for m in model.modules() if m not in ours and getattr(m, "running_mean", None) is not None
    ]


def _hold_statistics(module: nn.Module, args: Any) -> None:
    module.training = False
