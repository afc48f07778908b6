"""A file against the model that it came from, on fresh random images of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.deploy.format import Runner
from foveate.deploy.program import Deployment, ExportError, first_line
from foveate.deploy.request import Precision, Size

BOUNDS: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "int8": 0.5}
"""Of the largest relative difference. In float32 rounding alone gives 1e-7 to 1e-5, and in float16,
whose steps are 8,000 times as large, up to 1e-2; eight bits have their accuracy to be judged by,
and the bound only tells a broken file."""


class Difference(NamedTuple):
    """How far a file's outputs are from the model's.

    Attributes:
        size: of the images.
        value: largest difference of an output, as a share of its largest absolute value.
    """

    size: Size
    value: float


def verify(deployment: Deployment, run: Runner) -> list[Difference]:
    """One difference a size.

    Raises:
        ExportError: if the runtime fails on a size, or the model does.
    """
    found = []
    for number, size in enumerate(deployment.request.checked()):
        images = deployment.images(size, seed=1 + number)
        expected = expected_outputs(deployment, images, size)
        try:
            given = run(images)
        except Exception as error:
            raise ExportError(
                f"the file does not run on images of {size}: {first_line(error)}"
            ) from error
        found.append(Difference(size, difference(given, expected)))
    return found


def expected_outputs(deployment: Deployment, images: Tensor, size: Size) -> list[Tensor]:
    """What the model gives.

    Raises:
        ExportError: if it refuses the size.
    """
    try:
        return deployment.outputs(images)
    except ExportError:
        raise
    except Exception as error:
        stated = deployment.request.stated
        free = [axis for axis in deployment.request.free if axis != "batch"]
        if free and size[1:] != stated[1:]:
            raise ExportError(
                f"{' and '.join(free)} cannot be free: the model refuses images of {size}: "
                f"{first_line(error)}"
            ) from error
        raise ExportError(f"the model refuses images of {size}: {first_line(error)}") from error


def difference(given: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over all outputs, each as a share of its largest absolute value.

    Infinite where shapes differ, or a number stands where there is none.
    """
    if [x.shape for x in given] != [x.shape for x in expected]:
        return float("inf")
    return max((_difference(x, y) for x, y in zip(given, expected, strict=True)), default=0.0)


def _difference(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    if x.numel() == 0 or torch.equal(x, y):
        return 0.0
    share = (x - y).abs().max() / y.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float("inf") if share.isnan() else share.item()
