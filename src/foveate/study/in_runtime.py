"""Trained models in another runtime than PyTorch: written as its files, and opened to be timed.

A file takes one image of the study's size, on the CPU, in float32, as most that are deployed do.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.analysis.profile import device_name
from foveate.deploy._runtimes import RUNTIMES
from foveate.deploy.export import FORMATS, export
from foveate.deploy.format import Format
from foveate.deploy.program import ExportError
from foveate.study.plan import Plan, PlanError
from foveate.study.records import InRuntime, Records


def check_runtime(plan: Plan) -> str:
    """What latency is measured in, in words.

    Raises:
        PlanError: if a package of the runtime is missing; the extra is named.
    """
    try:
        _format(plan).check_installed()
    except ModuleNotFoundError as error:
        raise PlanError(f"latency is {plan.latency}: {error}") from error
    made = _in_runtime(plan)
    return (
        f"latency is measured in {made.words}, one image a pass, by files that the trained models "
        "are exported to"
    )


def write(plan: Plan, model: nn.Module, size: tuple[int, ...], path: Path) -> InRuntime:
    """Put a trained model's file at ``path``, held to the model; or say why there is none.

    Args:
        plan: of the study.
        model: that is exported.
        size: (C, H, W) of an image.
        path: of the file.
    """
    channels, height, width = size
    made = _in_runtime(plan)
    try:
        result = export(
            model,
            path,
            to=RUNTIMES[plan.latency],
            size=(height, width),
            dynamic=(),
            channels=channels,
        )
    except ExportError as error:
        return made._replace(error=" ".join(str(error).split()))
    return made._replace(difference=result.difference, notes=result.notes)


def opened(plan: Plan, size: tuple[int, ...], path: Path) -> Callable[[], Any]:
    """A pass of the file at ``path`` over an image of ``size``."""
    run = _format(plan).open(path, plan.threads or 1)
    image = torch.randn(1, *size)
    return lambda: run(image)


def file_of(root: Path, plan: Plan, key: str) -> Path:
    """The file of a row, while it is timed."""
    return Records(root).exported / f"{key}{_format(plan).suffix}"


def _format(plan: Plan) -> Format:
    """What the runtime of a plan reads."""
    return FORMATS[RUNTIMES[plan.latency]]


def _in_runtime(plan: Plan) -> InRuntime:
    format_ = _format(plan)
    package = format_.imported[0].partition(".")[0]
    (distribution, *_) = packages_distributions()[package]  # such as onnxruntime-gpu
    return InRuntime(
        format_.runtime,
        version(distribution),
        "float32",
        plan.threads or 1,
        device_name("cpu"),
    )
