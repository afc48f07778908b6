"""How a model is trained, whatever for: passes, optimizer, learning rate over time, precision.

Optimizers and schedules are timm's, by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from foveate.arguments import one_of, positive
from foveate.surgery.recipe import added

_SCHEDULES = ("cosine", "tanh", "poly", "step", "multistep")
_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        optimizer: a timm name.
        lr: highest learning rate.
        weight_decay: of weights that are neither biases nor norms.
        schedule: a timm name.
        warmup_epochs: over which the learning rate rises; half of ``epochs`` at most.
        clip_grad: largest norm of the gradient; None lets it be.
        precision: Lightning's name for it, such as ``"32-true"`` or ``"bf16-mixed"``.
        device: cpu, cuda, mps or another of torch's.
        added_lr_scale: learning rate of what :func:`foveate.insert` and :func:`foveate.replace`
            put into the model, over that of the rest.
    """

    epochs: int
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    clip_grad: float | None = 1.0
    precision: str = "32-true"
    device: str = "cpu"
    added_lr_scale: float = 1.0


def check_recipe(recipe: Recipe) -> None:
    """Refuse what training would stumble over.

    Raises:
        ValueError: if optimizer, schedule or precision are unknown, or a number makes no sense.
    """
    one_of(recipe.optimizer, list_optimizers(), "optimizer")
    one_of(recipe.schedule, _SCHEDULES, "schedule")
    one_of(recipe.precision, _PRECISIONS, "precision")
    positive(recipe.epochs, "epochs")
    if not (math.isfinite(recipe.lr) and recipe.lr > 0):
        raise ValueError(f"lr must be a positive number, got {recipe.lr!r}")


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of ``recipe`` over the weights of ``model``."""
    groups = {}
    if recipe.added_lr_scale != 1:
        groups = {"param_group_fn": partial(_groups, recipe=recipe)}
    fused = recipe.optimizer in ("adam", "adamw") and recipe.device.startswith(("cpu", "cuda"))
    return create_optimizer_v2(
        model,
        recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        **({"fused": True} if fused else {}),
        **groups,
    )


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of parameters as timm makes them, with what was added apart, at its own rate.

    timm's schedules multiply the rate of a group by its ``lr_scale``.
    """
    new = {id(parameter) for parameter in added(model)}
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # pyrefly: ignore
    groups = []
    for group in param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared):
        mine = [p for p in group["params"] if id(p) in new]
        rest = [p for p in group["params"] if id(p) not in new]
        groups += [{**group, "params": rest}] if rest else []
        groups += [{**group, "params": mine, "lr_scale": recipe.added_lr_scale}] if mine else []
    return groups


def create_schedule(optimizer: Optimizer, recipe: Recipe, updates_per_epoch: int) -> Any:
    """The schedule of ``recipe``: timm's, stepped by the number of updates so far.

    It falls from where the warm-up ends: without timm's prefix it has fallen by then already, and
    the highest learning rate is never reached.
    """
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    schedule, _ = create_scheduler_v2(
        optimizer,
        recipe.schedule,
        num_epochs=recipe.epochs - warmup,  # pyrefly: ignore
        warmup_epochs=warmup,  # pyrefly: ignore
        warmup_prefix=True,
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    return schedule
