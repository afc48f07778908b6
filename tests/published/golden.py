"""Reference outputs of published implementations, and the rows that say how to reproduce them.

``cases/NAME.json`` says what was run (source, arguments, inputs, the state's names and shapes) and
``cases/NAME.npz`` holds what came out; ``tools/record_case.py`` writes both. Weights and inputs are
not stored but filled by their names (:mod:`tests.published.fill`), so that a case stays small
however large the module. The rows are in ``tables``, by family.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import foveate
from tests.published.fill import fill_input, fill_weight

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


def load_case(name: str, folder: Path = CASES) -> Golden:
    """The case ``name``: its weights and inputs drawn anew, its outputs read."""
    meta = json.loads((folder / f"{name}.json").read_text())
    entries = meta["state"]
    with np.load(folder / f"{name}.npz") as arrays:
        outputs = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return Golden(
        kwargs=meta["kwargs"],
        state={e["key"]: fill_weight(e["key"], e["shape"]) for e in entries if e["fill"]},
        fixed=fixed_entries(name, folder),
        inputs={i["name"]: _input(i) for i in meta["inputs"]},
        outputs=outputs,
    )


def fixed_entries(name: str, folder: Path = CASES) -> dict[str, tuple[int, ...]]:
    """Shapes of the buffers that the published module of the case computes itself."""
    entries = json.loads((folder / f"{name}.json").read_text())["state"]
    return {e["key"]: tuple(e["shape"]) for e in entries if not (e["fill"] or e.get("param"))}


def largest_differences(
    row: Row, golden: Golden | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """Our module, and by output the largest difference as a share of the largest value."""
    golden = golden or load_case(row.case)
    module = foveate.load_published(row.build(**golden.kwargs), row.weights(golden))
    with torch.no_grad():
        ours = row.run(module.train(row.train), golden)
    ours = ours if isinstance(ours, Mapping) else {"y": ours}
    assert ours.keys() == golden.outputs.keys()
    return module, {name: _difference(ours[name], golden.outputs[name]) for name in ours}


def _difference(ours: Tensor, published: Tensor) -> float:
    assert ours.shape == published.shape
    difference = (ours.double() - published.double()).abs().max()
    return (difference / published.abs().max().clamp_min(1e-30)).item()


def _input(entry: dict[str, Any]) -> Tensor:
    if "value" in entry:
        return torch.from_numpy(np.asarray(entry["value"], entry["dtype"]))
    return fill_input(entry["name"], entry["shape"])
