"""The common checks: whether a mechanism keeps the contract of its role.

The library runs them over everything it registers; your own mechanism is certified the same
way, registered or not:

>>> from foveate.checks import check_attention
>>> check_attention("multi_head")

Reducers, which change whole models, have checks of their own:

>>> from foveate.checks import check_reducer
>>> check_reducer("tome")
"""

from __future__ import annotations

from foveate.checks import (  # noqa: F401  (importing a theme adds its checks)
    batches,
    compilation,
    costs,
    dense_weights,
    deployment,
    gates,
    gradients,
    masks,
    memory,
    precision,
    quantization,
    recomputation,
    reducers,
    refusals,
    shapes,
    states,
    transforms,
)
from foveate.checks.reducers import HOSTS, ReducerSubject, check_reducer, reducer_subjects
from foveate.checks.running import (
    CHECKS,
    Check,
    CheckFailure,
    check,
    check_attention,
    checks_for,
    parametrize_with_checks,
)
from foveate.checks.subject import Subject, examine
from foveate.checks.tables import EXPECTED_FAILURES

__all__ = [
    "CHECKS",
    "EXPECTED_FAILURES",
    "HOSTS",
    "Check",
    "CheckFailure",
    "ReducerSubject",
    "Subject",
    "check",
    "check_attention",
    "check_reducer",
    "checks_for",
    "examine",
    "parametrize_with_checks",
    "reducer_subjects",
]
