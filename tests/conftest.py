from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

THREADS = 2


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))


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
