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
    """Every parameter gets a finite gradient that is not zero throughout."""
    module = subject.build().train()
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5)))
    result = outputs(module, inputs)
    sum((y * y.detach().sin()).sum() for y in result).backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        require(gradient is not None, f"{name} gets no gradient")
        require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
        require(bool(gradient.any()), f"the gradient of {name} is zero throughout")


@check(without=("batch_statistics",))
def check_training_mode(subject: Subject) -> None:
    """Without dropout and batch statistics, training mode gives what eval mode gives."""
    module = subject.build()
    inputs = subject.inputs((6, 5))
    with torch.no_grad():
        expected = outputs(module, inputs)
        require_close(outputs(module.train(), inputs), expected, "training mode")


def _compare_with_differences(subject: Subject, *, training: bool) -> None:
    module = subject.build(torch.float64).train(training)
    inputs = tuple(x.requires_grad_() for x in subject.inputs((4, 3), dtype=torch.float64))
    parameters = dict(module.named_parameters())

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = tensors[: len(inputs)]
        state = dict(zip(parameters, tensors[len(inputs) :], strict=True))
        result = torch.func.functional_call(module, state, given)
        return result if isinstance(result, tuple) else (result,)

    torch.autograd.gradcheck(
        function, (*inputs, *parameters.values()), fast_mode=True, atol=1e-5, rtol=1e-3
    )
