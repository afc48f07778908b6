"""A sample of the fuzzed calls; ``python -m benchmarks.fuzz`` makes as many as wanted."""

from __future__ import annotations

import pytest
from benchmarks.fuzz import OPERATORS, faults

from foveate.ops.native import library


@pytest.mark.slow
@pytest.mark.skipif(bool(library.why_not()), reason="the native library does not run here")
@pytest.mark.parametrize("operator", OPERATORS)
def test_random_calls_equal_float64(operator: str) -> None:
    assert list(faults(operator, 0, 60)) == []
