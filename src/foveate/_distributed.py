"""What a loss is divided by, over all processes that train one model together.

A loss is a sum over what counts (pixels, anchors, regions) by their number, ``S / N``. Of P
processes each knows its own ``S_p`` and ``N_p``, and gradients are averaged over them, so each
takes

    S_p / (sum_q N_q / P),   whose mean over processes is   sum_p S_p / sum_p N_p,

the loss of all images in one process. Sums are taken over processes inside :func:`in_step` alone,
where all of them run the same: a process that computes a loss by itself waits for no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, distributed

_PROCESSES = ContextVar("processes", default=1)
_Number = TypeVar("_Number", int, Tensor)


@contextmanager
def in_step(processes: int) -> Iterator[None]:
    """Inside, so many processes, all there are, run the same."""
    before = _PROCESSES.set(processes)
    try:
        yield
    finally:
        _PROCESSES.reset(before)


def mean_over_processes(number: _Number, like: Tensor) -> _Number | Tensor:
    """The mean of a number; the number as it is where there is one process.

    Args:
        number: which no gradient is of.
        like: a tensor on the device that processes exchange from.
    """
    processes = _PROCESSES.get()
    if processes == 1:
        return number
    total = torch.as_tensor(number, dtype=torch.float32, device=like.device).clone()
    distributed.all_reduce(total)
    return total / processes


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x``, with its gradient; ``x`` where there is one process."""
    if _PROCESSES.get() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)
