"""Weights and inputs of the recorded cases: each is drawn from a generator seeded by its name.

Whoever records a case and whoever reproduces it fills by these functions, so that neither weights
nor inputs have to be stored.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ONES = ("weight", "gamma", "alpha", "temperature", "scale")


def fill_weight(key: str, shape: Sequence[int]) -> Tensor:
    """The value of the state entry ``key``: a function of its name and shape alone.

    Matrices and kernels keep the scale of what passes through them; vectors are near one where
    their name says that they multiply, near zero elsewhere; variances are positive.
    """
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    noise = _noise(key, shape)
    if leaf in ("running_var", "_variance"):
        values = 0.75 + 0.25 * np.tanh(noise)
    elif len(shape) <= 1:
        values = float(leaf in _ONES) + 0.1 * noise
    else:
        values = noise / np.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def fill_input(name: str, shape: Sequence[int]) -> Tensor:
    """The standard-normal input ``name``: a function of its name and shape alone."""
    return torch.from_numpy(_noise(f"input:{name}", shape))


def _noise(name: str, shape: Sequence[int]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(random.standard_normal(tuple(shape)), np.float32)
