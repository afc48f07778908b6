"""Gradients are right, and reach everything that can be trained."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.checks.running import check, outputs, require, require_close
from foveate.checks.subject import Subject


@check()
def check_gradients(subject: Subject) -> None:
    """Gradients of input and parameters agree with finite differences in float64."""
    _compare_with_differences(subject, training=False)


@check(tags=("batch_statistics",))
def check_training_gradients(subject: Subject) -> None:
    """The same in training mode, where batch statistics take part."""
    _compare_with_differences(subject, training=True)


@check()
def check_parameters_are_trained(subject: Subject) -> None:
    """Every parameter gets a finite gradient, and but for what the equation cancels not zero."""
    # Batch statistics take a bias in front of them away again: its gradient is rounding alone.
    module = subject.build().train("batch_statistics" not in subject.tags)
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5)))
    result = outputs(module, inputs)
    sum((y * y.detach().sin()).sum() for y in result).backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        require(gradient is not None, f"{name} gets no gradient")
        require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
        reached = bool(gradient.any()) or name in getattr(module, "cancelled", ())
        require(reached, f"the gradient of {name} is zero throughout")


@check(without=("batch_statistics",))
def check_training_mode(subject: Subject) -> None:
    """Without dropout and batch statistics, training mode gives what eval mode gives."""
    module = subject.build()
    inputs = subject.inputs((6, 5))
    with torch.no_grad():
        expected = outputs(module, inputs)
        require_close(outputs(module.train(), inputs), expected, "training mode")


def _compare_with_differences(subject: Subject, *, training: bool) -> None:
    """Along random directions of the inputs and of all parameters together."""
    module = subject.build(torch.float64).train(training)
    inputs = tuple(x.requires_grad_() for x in subject.inputs((4, 3), dtype=torch.float64))
    parameters = dict(module.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in parameters.values()] or [torch.zeros(0)])
    sizes = [p.numel() for p in parameters.values()]

    def function(flat: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        pieces = zip(parameters.items(), flat.split(sizes), strict=True)
        state = {name: piece.view_as(p) for (name, p), piece in pieces}
        result = torch.func.functional_call(module, state, given)
        return result if isinstance(result, tuple) else (result,)

    flat.requires_grad_(flat.numel() > 0)
    torch.autograd.gradcheck(function, (flat, *inputs), fast_mode=True, atol=1e-6, rtol=1e-4)
