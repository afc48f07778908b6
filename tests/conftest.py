from __future__ import annotations

import os

# Tests are small: threads that wait for each other cost several times the work itself, above all
# where two workers share two cores. Read when PyTorch is imported, and by the processes of tests.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For tests of code that shares its work among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN (integers: a huge number): what is read before it is written shows.

    Covers ``torch.empty``, ``empty_like``, ``empty_strided`` and ``Tensor.new_empty``.
    """

    def poisoning(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*args: Any, **kwargs: Any) -> Tensor:
            fresh = function(*args, **kwargs)
            if fresh.is_floating_point() or fresh.is_complex():
                return fresh.detach().fill_(float("nan")).requires_grad_(fresh.requires_grad)
            return fresh if fresh.dtype is torch.bool else fresh.fill_(torch.iinfo(fresh.dtype).max)

        return poisoned

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poisoning(Tensor.new_empty))
