"""Published weights load whole or not at all; deployment keeps the numbers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from foveate.checks.refusals import require_refusal
from foveate.checks.running import check, outputs, require, require_close
from foveate.checks.subject import Subject
from foveate.published import load_published


@check(tags=("fusable",))
def check_fuse(subject: Subject) -> None:
    """``fuse()`` keeps the numbers, costs no more, and may be called twice."""
    module = subject.build()
    fused = copy.deepcopy(module)
    fused.fuse()
    for size in ((6, 5), (1, 1), (9, 12)):
        inputs = subject.inputs(size)
        with torch.no_grad():
            expected = outputs(module, inputs)
            require_close(outputs(fused, inputs), expected, f"fused, size {size}", tolerance=1e-4)
        spent, before = (m.multiply_adds(*subject.cost_size(size)) for m in (fused, module))
        require(spent <= before, f"fused, {spent} multiply-adds instead of {before}")
    fused.fuse()
    with torch.no_grad():
        require_close(outputs(fused, inputs), expected, "fused twice", tolerance=1e-4)


@check(tags=("published",))
def check_load_published(subject: Subject) -> None:
    """Weights with an entry too many, too few or misshapen are refused, the module unchanged."""
    module, source = subject.build(), subject.build(seed=7).state_dict()
    before = _copy(module.state_dict())
    key = next(iter(source))
    wrong = {
        "an entry left over": ({**source, "unheard_of": torch.zeros(3)}, "unheard_of"),
        "a missing entry": ({k: v for k, v in source.items() if k != key}, key),
        "a misshapen entry": ({**source, key: torch.zeros(3, 5, 7, 2, 1)}, key),
    }
    for what, (state, named) in wrong.items():
        require_refusal(lambda s=state: load_published(module, s), what, named)
        for name, value in module.state_dict().items():
            require(torch.equal(value, before[name]), f"{what} changes {name}")


@check(tags=("published",))
def check_load_own(subject: Subject) -> None:
    """What this library saved loads by the same call."""
    module, source = subject.build(), subject.build(seed=7)
    load_published(module, _copy(source.state_dict()))
    inputs = subject.inputs((6, 5))
    with torch.no_grad():
        require_close(outputs(module, inputs), outputs(source, inputs), "loaded weights")


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}
