"""The public names: adding one is a decision, losing one breaks somebody."""

from __future__ import annotations

import inspect

import pytest

import foveate
import foveate.checks
import foveate.ops

PUBLIC = {
    foveate: [
        "Profile",
        "Spec",
        "added",
        "apply",
        "changes",
        "count_flops",
        "create_attention",
        "describe",
        "finish",
        "freeze",
        "fuse",
        "insert",
        "list_attention",
        "load_published",
        "places",
        "profile",
        "register",
        "replace",
        "restore",
        "what_a_query_sees",
    ],
    foveate.checks: [
        "CHECKS",
        "EXPECTED_FAILURES",
        "Check",
        "CheckFailure",
        "Subject",
        "check",
        "check_attention",
        "checks_for",
        "examine",
        "parametrize_with_checks",
    ],
}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names(module):
    assert sorted(module.__all__) == sorted(PUBLIC[module])
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_what_is_public_exists_and_is_documented(module):
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{module.__name__}.{name} has no documentation"


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'create_atention'"):
        foveate.create_atention  # noqa: B018
