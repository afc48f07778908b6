"""Random numbers that are a function of what they are for: seed, epoch, image."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*key: int) -> int:
    """A 64-bit seed for this key; neighbouring keys give unrelated seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_all(*key: int) -> None:
    """Set every global generator, as a function of ``key``."""
    seed = derive(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  timm draws from the global generator
    torch.manual_seed(seed)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever happens to the global generators inside, they are as before after it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
