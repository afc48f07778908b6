"""Optimizer and learning rate over time, as a recipe asks for them; timm's.

    lr(group, update) = schedule(update) * decay^(layers above the group) * added_lr_scale, if added

Layers are those of timm's ``group_matcher``; what no pattern of it names, such as a head, is the
last one. Weights that are biases, norms or in the model's ``no_weight_decay()`` do not decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.optim import (
    create_optimizer_v2,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from foveate.surgery.recipe import added
from foveate.training.recipe import Recipe


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of ``recipe`` over the weights of ``model``.

    Raises:
        ValueError: if the recipe has a layer decay and the model does not say its layers, or an
            option does not fit the optimizer.
    """
    groups = {}
    if recipe.added_lr_scale != 1 or recipe.layer_decay != 1:
        groups = {"param_group_fn": lambda model: _groups(model, recipe)}
    fused = recipe.optimizer in ("adam", "adamw") and recipe.device.startswith(("cpu", "cuda"))
    if recipe.precision.endswith("mixed") and recipe.clip_grad is not None:
        fused = False  # Lightning clips no gradients that a fused optimizer might scale itself
    options = {**({"fused": True} if fused else {}), **groups, **recipe.optimizer_kwargs}
    try:
        return create_optimizer_v2(
            model, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, **options
        )
    except TypeError as error:
        raise _refused("optimizer", recipe.optimizer, recipe.optimizer_kwargs, error) from error


def _refused(what: str, name: str, options: Mapping[str, Any], error: TypeError) -> Exception:
    """What to say where an option of the user's is none of timm's."""
    if not options:
        return error
    return ValueError(f"{what}_kwargs {dict(options)} do not fit {what} {name!r}: {error}")


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of parameters as timm makes them, with what was added apart, at its own rate.

    timm's schedules multiply the rate of a group by its ``lr_scale``.
    """
    new = {id(parameter) for parameter in added(model)}
    groups = []
    for group in _by_decay(model, recipe):
        mine = [p for p in group["params"] if id(p) in new]
        rest = [p for p in group["params"] if id(p) not in new]
        scale = group.get("lr_scale", 1.0) * recipe.added_lr_scale
        groups += [{**group, "params": rest}] if rest else []
        groups += [{**group, "params": mine, "lr_scale": scale}] if mine else []
    return groups


def _by_decay(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # pyrefly: ignore
    if recipe.layer_decay == 1:
        return param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared)
    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"layer_decay needs a model that says what its layers are (timm's group_matcher), and "
            f"{type(model).__name__} does not: leave layer_decay at 1"
        )
    return param_groups_layer_decay(
        model, recipe.weight_decay, no_weight_decay_list=spared, layer_decay=recipe.layer_decay
    )


def create_schedule(optimizer: Optimizer, recipe: Recipe, updates_per_epoch: int) -> Any:
    """The schedule of ``recipe``: timm's, stepped by the number of updates so far.

    It falls from where the warm-up ends: without timm's prefix it has fallen by then already, and
    the highest learning rate is never reached.
    """
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    options: dict[str, Any] = {
        "num_epochs": recipe.epochs - warmup,
        "warmup_epochs": warmup,
        "warmup_prefix": True,
        "warmup_lr": recipe.lr / 100,
        "step_on_epochs": False,
        "updates_per_epoch": updates_per_epoch,
        **recipe.schedule_kwargs,
    }
    try:
        schedule, _ = create_scheduler_v2(optimizer, recipe.schedule, **options)
    except TypeError as error:
        raise _refused("schedule", recipe.schedule, recipe.schedule_kwargs, error) from error
    return schedule
