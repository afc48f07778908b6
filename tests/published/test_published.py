"""Every mechanism gives the numbers of its published implementation, from its weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import foveate
from foveate.models._backbone import Backbone, checkpoint_filter_fn
from foveate.models._timm import TimmBackbone
from tests.published.golden import CASES, Golden, Row, load_case

HERE = Path(__file__).parent
ROWS: list[Row] = [
    row
    for path in sorted(HERE.glob("cases_*.py"))
    for row in importlib.import_module(f"tests.published.{path.stem}").ROWS
]


SWEEP = [
    pytest.param(row, id=row.case, marks=[pytest.mark.slow] if row.slow else []) for row in ROWS
]


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


@pytest.mark.parametrize("row", SWEEP)
def test_equals_the_published_output(row: Row) -> None:
    golden = load_case(row.case)
    module, differences = largest_differences(row, golden)
    for name, difference in differences.items():
        # A NaN is no difference that is small enough, so the comparison must be true.
        assert difference <= row.tolerance, f"{name} differs by {difference:.1e} of its maximum"
    if isinstance(module, Backbone | TimmBackbone) and row.weights is Row.weights:
        wrapped = {"state_dict": {f"module.{key}": value for key, value in golden.state.items()}}
        assert checkpoint_filter_fn(wrapped, module).keys() == module.state_dict().keys()


FIXED = [row for row in ROWS if not row.slow and load_case(row.case).fixed]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row.case)
def test_tables_that_a_real_checkpoint_holds_are_accepted(row: Row) -> None:
    golden = load_case(row.case)
    tables = {key: torch.zeros(shape) for key, shape in golden.fixed.items()}
    golden = dataclasses.replace(golden, state=golden.state | tables)
    foveate.load_published(row.build(**golden.kwargs), row.weights(golden))


def test_every_case_kept_here_is_used_once() -> None:
    kept = sorted(path.stem for path in CASES.glob("*.json"))
    assert sorted(row.case for row in ROWS) == kept
