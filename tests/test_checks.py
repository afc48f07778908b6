from __future__ import annotations

from foveate.checks import parametrize_with_checks


@parametrize_with_checks(slow=True)
def test_mechanism(subject, check):
    check(subject)
