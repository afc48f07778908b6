"""What the file of a trained model says of it, from the plan and the images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from foveate.data.images import ImageSet
from foveate.saved.info import Architecture, ModelInfo
from foveate.study.entry import Entry
from foveate.study.host import own_host
from foveate.study.own_host import architecture, normalization
from foveate.study.plan import Plan
from foveate.study.tasks import task_of


def architecture_of(plan: Plan, entry: Entry, channels: int) -> Architecture:
    """How the model of a trial is built; one of the user's own as it is before ``entry`` is put in.

    Args:
        plan: of the study.
        entry: what stands in the host.
        channels: of the images.
    """
    if own_host(plan.host) is not None:
        return architecture(plan, channels)
    options = {
        "in_chans": channels,
        "attention": entry.name,
        "attention_kwargs": entry.kwargs,
        "start": plan.start,
        **plan.host_kwargs,
        **entry.host,
    }
    return task_of(plan).architecture(plan, plan.host, options)


def info_of(plan: Plan, entry: Entry, images: ImageSet, model: nn.Module) -> ModelInfo:
    """All that the file of a trained model says but its metrics.

    Args:
        plan: of the study.
        entry: what stands in the host.
        images: that it was trained on.
        model: as built.
    """
    normalize = normalization(plan, model, images.moments, images.channels)
    colors: Any = images.colors and tuple(tuple(color) for color in images.colors)
    return ModelInfo(
        task=plan.task,
        architecture=replace(architecture_of(plan, entry, images.channels), imports=plan.imports),
        classes=tuple(images.classes),
        input=task_of(plan).input(plan, images, normalize),
        categories=images.categories,
        ignored=images.ignored,
        colors=colors,
    )
