"""Other number formats give the same result, as exactly as they can."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foveate.checks.running import check, layer_outputs, outputs, require
from foveate.checks.subject import Size, Subject

_SIZE: Size = (6, 5)
_LARGE: Size = (30, 30)  # sums over positions count
_LARGEST = torch.finfo(torch.float16).max / 8  # which leaves room for sums of a few such numbers
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


@check()
def check_half_range(subject: Subject) -> None:
    """float16, under autocast and throughout, stays finite where float32's layers are in its range.

    Logits leave that range first: scale queries before the product, or multiply in float32.
    """
    for size, scale in ((_SIZE, 1), (_SIZE, 30), (_SIZE, 1000), (_LARGE, 50)):
        _require_finite_in_half(subject, size, scale, outputs)


@check(roles=("mixer", "token_mixer"), tags=("weights",))
def check_weights_in_half_range(subject: Subject) -> None:
    """So do the weights that it shows."""
    for scale in (1, 30, 1000):
        _require_finite_in_half(subject, _SIZE, scale, lambda module, x: (module.weights(*x),))


def _require_finite_in_half(
    subject: Subject,
    size: Size,
    scale: float,
    compute: Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]],
) -> None:
    module, half = subject.build(), subject.build(torch.float16)
    inputs = tuple(scale * x.relu() for x in subject.inputs(size, batch=1))
    with torch.no_grad():
        largest = max(y.abs().max().item() for y in layer_outputs(module, inputs))
        if not largest <= _LARGEST:
            return
        with torch.autocast("cpu", torch.float16):
            found = {"autocast": compute(module, inputs)}
        found["half()"] = compute(half, tuple(x.half() for x in inputs))
    for what, tensors in found.items():
        require(
            all(bool(torch.isfinite(y).all()) for y in tensors),
            f"under {what}, inputs of scale {scale} and size {size} give numbers that are not "
            f"finite; in float32 no layer gives more than {largest:.0f}",
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
