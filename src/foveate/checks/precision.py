"""Other number formats give the same result, as exactly as they can."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.checks.running import check, outputs, require
from foveate.checks.subject import Subject

_SIZE = (6, 5)
_TOLERANCES = {torch.float64: 1e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@check()
def check_double(subject: Subject) -> None:
    """float64 in, float64 out, and float32 is close to it."""
    _compare(subject, torch.float64)


@check()
def check_half(subject: Subject) -> None:
    """float16 in, float16 out, close to float32."""
    _compare(subject, torch.float16)


@check()
def check_bfloat16(subject: Subject) -> None:
    """bfloat16 in, bfloat16 out, close to float32."""
    _compare(subject, torch.bfloat16)


@check()
def check_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast both passes run, and the output is close to float32."""
    module = subject.build()
    inputs = tuple(x.requires_grad_() for x in subject.inputs(_SIZE))
    with torch.no_grad():
        expected = outputs(module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        result = outputs(module, inputs)
    _require_near(result, expected, "autocast", _TOLERANCES[torch.bfloat16])
    sum(y.float().sum() for y in result).backward()
    named = [("the input", x) for x in inputs] + list(module.named_parameters())
    for name, tensor in named:
        gradient = tensor.grad
        require(
            gradient is None or bool(torch.isfinite(gradient).all()),
            f"under autocast the gradient of {name} is not finite",
        )


def _compare(subject: Subject, dtype: torch.dtype) -> None:
    inputs = subject.inputs(_SIZE)
    with torch.no_grad():
        expected = outputs(subject.build(), inputs)
        result = outputs(subject.build(dtype), tuple(x.to(dtype) for x in inputs))
    for y in result:
        require(y.dtype == dtype, f"{dtype} gives {y.dtype}")
    _require_near(result, expected, str(dtype), _TOLERANCES[dtype])


def _require_near(
    actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], what: str, tolerance: float
) -> None:
    """Root mean square of the difference, relative to that of the expected."""
    for a, b in zip(actual, expected, strict=True):
        error = ((a.double() - b.double()).square().mean() / b.double().square().mean()).sqrt()
        require(
            error.item() <= tolerance, f"{what} differs by {error:.2g}, more than {tolerance:g}"
        )
