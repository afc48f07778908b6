from __future__ import annotations

import pytest

from foveate.checks import checks_for, reducer_subjects

CASES = [
    pytest.param(
        subject,
        check,
        id=f"{subject.name}-{subject.kind}-{check.name.removeprefix('check_')}",
        marks=[pytest.mark.slow] if check.slow else [],
    )
    for subject in reducer_subjects()
    for check in checks_for(subject)
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_every_reducer_keeps_the_contract(subject, check):
    check(subject)
