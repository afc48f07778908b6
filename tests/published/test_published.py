"""Every mechanism gives the numbers of its published implementation, from its weights."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest
import torch

import foveate
from foveate.models._backbone import Backbone, checkpoint_filter_fn
from foveate.models._timm import TimmBackbone
from tests.published import tables
from tests.published.golden import CASES, Row, fixed_entries, largest_differences, load_case

ROWS: list[Row] = [
    row
    for module in pkgutil.walk_packages(tables.__path__, f"{tables.__name__}.")
    if not module.ispkg
    for row in importlib.import_module(module.name).ROWS
]

SWEEP = [
    pytest.param(row, id=row.case, marks=[pytest.mark.slow] if row.slow else []) for row in ROWS
]


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


FIXED = [row for row in ROWS if not row.slow and fixed_entries(row.case)]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row.case)
def test_tables_that_a_real_checkpoint_holds_are_accepted(row: Row) -> None:
    golden = load_case(row.case)
    tables = {key: torch.zeros(shape) for key, shape in golden.fixed.items()}
    golden = dataclasses.replace(golden, state=golden.state | tables)
    foveate.load_published(row.build(**golden.kwargs), row.weights(golden))


def test_every_case_kept_here_is_used_once() -> None:
    kept = sorted(path.stem for path in CASES.glob("*.json"))
    assert sorted(row.case for row in ROWS) == kept
