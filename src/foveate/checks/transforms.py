"""``torch.func`` transforms: gradients sample by sample, and ensembles of modules."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from foveate.checks.running import check, outputs, require_close
from foveate.checks.subject import Subject

_SIZE = (6, 5)


@check()
def check_gradients_by_sample(subject: Subject) -> None:
    """``vmap(grad(...))`` gives the gradients that each sample gives alone."""
    module = subject.build(torch.float64)
    state = {name: p.detach() for name, p in module.named_parameters()}
    inputs = subject.inputs(_SIZE, dtype=torch.float64)

    def loss(state: dict[str, Tensor], *sample: Tensor) -> Tensor:
        result = functional_call(module, state, tuple(x[None] for x in sample))
        return sum(y.square().sum() for y in _as_tuple(result))

    axes = (None, *[0] * len(inputs))
    every = vmap(grad(loss), in_dims=axes)(state, *inputs)
    for i in range(len(inputs[0])):
        alone = grad(loss)(state, *(x[i] for x in inputs))
        for name, expected in alone.items():
            require_close(every[name][i], expected, f"{name} of sample {i}", 1e-6)


@check()
def check_ensemble(subject: Subject) -> None:
    """``stack_module_state`` and ``vmap`` give what each module of an ensemble gives alone."""
    modules = [subject.build(torch.float64, seed=seed) for seed in range(3)]
    if not list(modules[0].parameters()):
        return  # all of them are alike
    inputs = subject.inputs(_SIZE, dtype=torch.float64)
    base = copy.deepcopy(modules[0]).to("meta")

    def call(state: tuple[dict[str, Tensor], dict[str, Tensor]], *given: Tensor) -> Any:
        return _as_tuple(functional_call(base, state, given))

    axes = (0, *[None] * len(inputs))
    every = vmap(call, in_dims=axes)(stack_module_state(modules), *inputs)
    for i, module in enumerate(modules):
        with torch.no_grad():
            expected = outputs(module, inputs)
        require_close(tuple(y[i] for y in every), expected, f"module {i} of three", 1e-8)


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
