"""A forward that is computed again, to save memory, does what the first one did."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch._functorch import config
from torch.utils.checkpoint import checkpoint

from foveate.checks.running import check, outputs, require_close
from foveate.checks.subject import Subject

_SIZE = (6, 5)
_BUDGET = 0.5  # of memory; with nearly none PyTorch draws its own random numbers again

Run = Callable[..., tuple[Tensor, ...]]


@check()
def check_recomputed(subject: Subject) -> None:
    """``torch.utils.checkpoint`` in training, with dropout: the same output and gradients."""
    expected = _trained(subject, lambda module, inputs: outputs(module, inputs))
    for reentrant in (False, True):

        def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            call = lambda *given: outputs(module, given)  # noqa: E731
            return checkpoint(call, *inputs, use_reentrant=reentrant)  # noqa: B023

        actual = _trained(subject, run)
        require_close(actual, expected, f"checkpointed, use_reentrant={reentrant}", 1e-8)


@check(slow=True)
def check_recomputed_compiled(subject: Subject) -> None:
    """Compiled under an activation memory budget, with dropout: the same output and gradients."""
    expected = _compiled(subject, 1.0)
    require_close(_compiled(subject, _BUDGET), expected, f"memory budget {_BUDGET}", 1e-8)


def _trained(subject: Subject, run: Run) -> tuple[Tensor, ...]:
    """Output, and gradients of inputs and parameters, of one seeded step in float64."""
    module = subject.build(torch.float64, **_dropout(subject)).train()
    inputs = tuple(x.requires_grad_() for x in subject.inputs(_SIZE, dtype=torch.float64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        result = run(module, inputs)
        sum((y * y.detach().sin()).sum() for y in result).backward()
    leaves = (*inputs, *module.parameters())
    return *result, *(x.grad for x in leaves if x.grad is not None)


def _compiled(subject: Subject, budget: float) -> tuple[Tensor, ...]:
    torch._dynamo.reset()

    def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return outputs(torch.compile(module, backend="aot_eager_decomp_partition"), inputs)

    limited: AbstractContextManager = config.patch(activation_memory_budget=budget)
    with limited:
        return _trained(subject, run)


def _dropout(subject: Subject) -> dict[str, float]:
    """The dropouts that the mechanism has, at one half."""
    known = inspect.signature(type(subject.create())).parameters
    return {name: 0.5 for name in ("attn_drop", "proj_drop") if name in known}
