"""Reference outputs of published implementations, and the rows that say how to reproduce them.

``cases/NAME.json`` says what was run (source, arguments, inputs, the state's names and shapes) and
``cases/NAME.npz`` holds what came out. Weights and inputs are not stored: each is drawn from a
generator seeded by its name, so that a case stays small however large the module.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Golden:
    """One case, rebuilt.

    Attributes:
        kwargs: constructor arguments of the published implementation.
        state: its weights, under its own names.
        fixed: shapes of the buffers it computes itself; a real checkpoint holds them too.
        inputs: its inputs by name.
        outputs: what it gave, by name.
    """

    kwargs: dict[str, Any]
    state: dict[str, Tensor]
    fixed: dict[str, tuple[int, ...]]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """How one case is reproduced here.

    Attributes:
        case: name of the case.
        build: makes our module from the case's ``kwargs``.
        run: gives the published outputs (one tensor, or several by name) from our module and the
            case; by default the module called with the inputs in order.
        weights: the entries of the case's state that our module loads; all of them by default.
        train: run in training mode, as the case was.
        tolerance: largest difference allowed, as a share of the largest absolute value.
        mechanism: name of the mechanism that the case belongs to, where it examines a part.
        slow: a large network, run in the slow sweep alone.
    """

    case: str
    build: Callable[..., nn.Module]
    run: Callable[[Any, Golden], Tensor | Mapping[str, Tensor]] = lambda module, golden: module(
        *golden.inputs.values()
    )
    weights: Callable[[Golden], dict[str, Tensor]] = lambda golden: golden.state
    train: bool = False
    tolerance: float = 1e-4
    mechanism: str = ""
    slow: bool = False


def load_case(name: str) -> Golden:
    """The case ``name``: its weights and inputs drawn anew, its outputs read."""
    meta = json.loads((CASES / f"{name}.json").read_text())
    entries = meta["state"]
    with np.load(CASES / f"{name}.npz") as arrays:
        outputs = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return Golden(
        kwargs=meta["kwargs"],
        state={e["key"]: weight(e["key"], e["shape"]) for e in entries if e["fill"]},
        fixed={e["key"]: tuple(e["shape"]) for e in entries if not (e["fill"] or e.get("param"))},
        inputs={i["name"]: _input(i) for i in meta["inputs"]},
        outputs=outputs,
    )


def weight(key: str, shape: list[int]) -> Tensor:
    """The value of the state entry ``key``: a function of its name and shape alone."""
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    noise = _noise(key, shape)
    if leaf in ("running_var", "_variance"):
        values = 0.75 + 0.25 * np.tanh(noise)
    elif len(shape) <= 1:
        ones = leaf in ("weight", "gamma", "alpha", "temperature", "scale")
        values = float(ones) + 0.1 * noise
    else:
        values = noise / np.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def _input(entry: dict[str, Any]) -> Tensor:
    if "value" in entry:
        return torch.from_numpy(np.asarray(entry["value"], entry["dtype"]))
    return torch.from_numpy(_noise(f"input:{entry['name']}", entry["shape"]))


def _noise(name: str, shape: list[int]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(random.standard_normal(tuple(shape)), np.float32)
