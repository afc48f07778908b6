"""Local aggregation: every position sums its neighbours with weights that are given."""

from __future__ import annotations

from foveate.ops.aggregate.api import local_aggregate

__all__ = ["local_aggregate"]
