"""Several runtimes side by side."""

from __future__ import annotations

import pytest

from foveate.deploy.measure import profile_runtimes
from tests.deploy.networks import Network, Odd

pytest.importorskip("onnxruntime")


def test_a_row_a_runtime():
    rows = profile_runtimes(Network(), ["torch", "onnxruntime"], (32, 32), seconds=0.1)
    assert [row.runtime for row in rows] == ["torch", "onnxruntime"]
    for row in rows:
        assert row.latency_p25_ms is not None
        assert row.latency_p75_ms is not None
        assert 0 < row.latency_p25_ms <= row.latency_p75_ms
        assert row.file_bytes
        assert row.peak_memory is None or row.peak_memory >= 0
    assert rows[0].difference is None
    assert rows[1].difference is not None
    assert rows[1].difference < 1e-4
    assert "ms" in rows[1].texts()[0]


def test_a_runtime_that_cannot_says_why():
    (row,) = profile_runtimes(Odd(), ["onnxruntime"], (8, 8), seconds=0)
    assert row.latency_ms is None
    assert "no operator" in row.note


def test_unknown_runtimes():
    with pytest.raises(ValueError, match="did you mean 'openvino'"):
        profile_runtimes(Network(), ["openvin"], (8, 8))
