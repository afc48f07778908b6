"""Every mechanism gives the numbers of its published implementation, from its weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import foveate
from tests.published.golden import CASES, Golden, Row, load_case

HERE = Path(__file__).parent
ROWS: list[Row] = [
    row
    for path in sorted(HERE.glob("cases_*.py"))
    for row in importlib.import_module(f"tests.published.{path.stem}").ROWS
]


def _run(row: Row, golden: Golden, state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    module = foveate.load_published(row.build(**golden.kwargs), state).train(row.train)
    with torch.no_grad():
        outputs = row.run(module, golden)
    return outputs if isinstance(outputs, Mapping) else {"y": outputs}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_equals_the_published_output(row: Row) -> None:
    golden = load_case(row.case)
    outputs = _run(row, golden, row.weights(golden))
    assert outputs.keys() == golden.outputs.keys()
    for name, expected in golden.outputs.items():
        largest = expected.abs().max().item()
        torch.testing.assert_close(outputs[name], expected, rtol=0, atol=row.tolerance * largest)


FIXED = [row for row in ROWS if load_case(row.case).fixed]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row.case)
def test_tables_that_a_real_checkpoint_holds_are_accepted(row: Row) -> None:
    golden = load_case(row.case)
    tables = {key: torch.zeros(shape) for key, shape in golden.fixed.items()}
    golden = dataclasses.replace(golden, state=golden.state | tables)
    foveate.load_published(row.build(**golden.kwargs), row.weights(golden))


def test_every_case_kept_here_is_used_once() -> None:
    kept = sorted(path.stem for path in CASES.glob("*.json"))
    assert sorted(row.case for row in ROWS) == kept
