from __future__ import annotations

import pytest

import foveate
from foveate.checks import (
    EXPECTED_FAILURES,
    HOSTS,
    CheckFailure,
    ReducerSubject,
    checks_for,
    reducer_subjects,
)
from foveate.checks.running import Check
from foveate.checks.tables import REFUSED


def _marks(subject: ReducerSubject, check: Check) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.slow] if check.slow else []
    reason = EXPECTED_FAILURES.get(subject.name, {}).get(check.name)
    if reason is not None:
        marks.append(pytest.mark.xfail(reason=reason, strict=True, raises=CheckFailure))
    return marks


CASES = [
    pytest.param(
        subject,
        check,
        id=f"{subject.name}-{subject.kind}-{check.name.removeprefix('check_')}",
        marks=_marks(subject, check),
    )
    for subject in reducer_subjects()
    for check in checks_for(subject)
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_every_reducer_keeps_the_contract(subject, check):
    check(subject)


@pytest.mark.parametrize(
    ("reducer", "kind"), [(name, kind) for name, kinds in REFUSED.items() for kind in kinds]
)
def test_what_a_reducer_does_not_take_it_refuses(reducer, kind):
    with pytest.raises(ValueError, match=f"{reducer} takes"):
        foveate.reduce(HOSTS[kind](), reducer)
