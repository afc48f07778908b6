"""Samples of a batch do not see each other."""

from __future__ import annotations

import torch

from foveate.checks.running import check, outputs, require_close
from foveate.checks.subject import Subject


@check()
def check_samples_alone(subject: Subject) -> None:
    """Each sample alone gives what it gives in the batch (eval mode)."""
    module = subject.build()
    inputs = subject.inputs((7, 5), batch=3)
    with torch.no_grad():
        together = outputs(module, inputs)
        for i in range(3):
            alone = outputs(module, tuple(x[i : i + 1] for x in inputs))
            require_close(alone, tuple(y[i : i + 1] for y in together), f"sample {i} alone")


@check()
def check_neighbour_ignored(subject: Subject) -> None:
    """Replacing one sample, even by enormous numbers, leaves the others as they were."""
    module = subject.build()
    inputs = subject.inputs((6, 5), batch=2)
    replaced = tuple(torch.cat((x[:1], 1e3 * x[1:].flip(1))) for x in inputs)
    with torch.no_grad():
        before, after = outputs(module, inputs), outputs(module, replaced)
    require_close(tuple(y[:1] for y in after), tuple(y[:1] for y in before), "the other sample")
