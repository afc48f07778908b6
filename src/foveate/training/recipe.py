"""How a model is trained, whatever for: passes, optimizer, learning rate over time, precision.

Optimizers and schedules are timm's, by name (:mod:`foveate.training.optimizer`). What is here
decides the numbers; over which processes a training runs does not, and is said apart
(:class:`foveate.training.Distribution`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.optim import list_optimizers

from foveate.arguments import one_of, positive

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
        accumulate: batches whose gradients make one update, each counting the same; those at an
            epoch's end that do not fill an update are left out.
        layer_decay: learning rate of each layer over that of the layer above it; 1 for one rate.
            Asks for a model that says what its layers are, as timm's do (``group_matcher``).
        ema_decay: how much of the average of the weights stays at an update; None for no average.
            Where there is one, it is what is measured and saved
            (:mod:`foveate.training.ema`).
        ema_warmup: whether the average begins with less than ``ema_decay``, for short trainings.
        sync_batch_norm: whether batch norm takes its moments over the processes' batches together
            and not over each one's own; needs CUDA.
        optimizer_kwargs: further options of timm's ``create_optimizer_v2``, such as ``betas``.
        schedule_kwargs: further options of timm's ``create_scheduler_v2``, such as ``min_lr``.
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
    accumulate: int = 1
    layer_decay: float = 1.0
    ema_decay: float | None = None
    ema_warmup: bool = False
    sync_batch_norm: bool = False
    optimizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    schedule_kwargs: Mapping[str, Any] = field(default_factory=dict)


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
    positive(recipe.accumulate, "accumulate")
    if not 0 < recipe.layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {recipe.layer_decay!r}")
    if recipe.ema_decay is None:
        if recipe.ema_warmup:
            raise ValueError("ema_warmup is of the average that ema_decay asks for: give that too")
    elif not 0 < recipe.ema_decay < 1:
        raise ValueError(f"ema_decay must be between 0 and 1, got {recipe.ema_decay!r}")
    elif recipe.precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"ema_decay adds what weights in precision={recipe.precision!r} cannot hold: take "
            f"{recipe.precision.replace('true', 'mixed')!r}"
        )
    if recipe.sync_batch_norm and not recipe.device.startswith("cuda"):
        raise ValueError(f"sync_batch_norm needs CUDA devices, got device={recipe.device!r}")
