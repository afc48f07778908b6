"""Which checks apply to a mechanism, and running them: alone, all at once, or under pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.checks.subject import Examinable, Subject, examine
from foveate.checks.tables import EXPECTED_FAILURES
from foveate.contracts import Role
from foveate.registry import list_attention

_MAPS: tuple[Role, ...] = ("mixer", "gate")
_ALL: tuple[Role, ...] = ("mixer", "gate", "token_mixer", "aligner")


class CheckFailure(AssertionError):  # noqa: N818  (a failed assertion, as in unittest)
    """A mechanism does not keep its contract; the message names check and mechanism."""


@dataclass(frozen=True)
class Check:
    """One property that mechanisms must have.

    Attributes:
        name: what reports call it.
        examine: raises where a subject lacks the property.
        roles: roles that must have it.
        tags: capabilities that a mechanism must all claim for the check to apply.
        without: capabilities that exempt a mechanism.
        slow: whether it takes seconds (compilers and exporters).
    """

    name: str
    examine: Callable[[Any], None]
    roles: tuple[Role, ...]
    tags: frozenset[str]
    without: frozenset[str]
    slow: bool

    def __call__(self, subject: Any) -> None:
        """Run it.

        Raises:
            CheckFailure: if the subject lacks the property.
        """
        try:
            self.examine(subject)
        except Exception as error:
            what = str(error) if isinstance(error, CheckFailure) else f"{_named(error)}: {error}"
            raise CheckFailure(f"{self.name} failed for {subject}: {what}") from error

    def applies(self, subject: Any) -> bool:
        """Whether ``subject`` must have the property, by its role and tags."""
        return (
            subject.role in self.roles
            and self.tags <= subject.tags
            and not self.without & subject.tags
        )


CHECKS: dict[str, Check] = {}


def check(
    roles: Iterable[Role] = _ALL,
    tags: Iterable[str] = (),
    without: Iterable[str] = (),
    slow: bool = False,
) -> Callable[[Callable[[Any], None]], Check]:
    """Decorator that adds a function of a :class:`Subject` to the checks.

    For the role of reducers it is of a :class:`~foveate.checks.reducers.ReducerSubject`.
    """

    def add(function: Callable[[Any], None]) -> Check:
        name = function.__name__
        made = Check(name, function, tuple(roles), frozenset(tags), frozenset(without), slow)
        CHECKS[name] = made
        return made

    return add


def checks_for(subject: Any, *, slow: bool = True) -> list[Check]:
    """The checks that apply to ``subject``, those that compile and export last."""
    applicable = [c for c in CHECKS.values() if c.applies(subject) and (slow or not c.slow)]
    return sorted(applicable, key=lambda c: c.slow)


def check_attention(
    attention: Examinable,
    /,
    *,
    tags: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    slow: bool = False,
    **options: Any,
) -> None:
    """Run every check that applies to a mechanism; the first failure raises.

    >>> check_attention("multi_head", num_heads=4)

    Args:
        attention: a registered name, a class that obeys a contract of ``foveate.contracts``
            (registered or not), a function of ``dim`` and options that builds its module, or
            what :func:`examine` made of one of these.
        tags: capabilities to examine (``foveate.registry.TAGS``); the registered ones by default.
        expected_failures: names of checks that must fail, each with a reason.
        slow: also run the checks that need a compiler or an exporter and take seconds each.
        **options: constructor options to examine it with; ``dim`` is 16 unless given.

    Raises:
        CheckFailure: if a check fails, or one that is expected to fail passes.
    """
    subject = examine(attention, tags=None if tags is None else frozenset(tags), **options)
    expected = _expected(subject, expected_failures)
    for applicable in checks_for(subject, slow=slow):
        reason = expected.get(applicable.name)
        try:
            applicable(subject)
        except CheckFailure:
            if reason is None:
                raise
        else:
            if reason is not None:
                raise CheckFailure(
                    f"{applicable.name} passes for {subject} though expected to fail ({reason}); "
                    "no longer expect it"
                )


def parametrize_with_checks(
    attentions: Iterable[Examinable] | None = None,
    *,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
    slow: bool = False,
) -> Any:
    """A pytest decorator: one test for each mechanism and check that applies to it.

    .. code-block:: python

        @parametrize_with_checks(["mine", Theirs])
        def test_contract(subject, check):
            check(subject)

    A check that is expected to fail becomes a strict ``xfail``.

    Args:
        attentions: names, classes, functions or subjects as in :func:`check_attention`; every
            registered mechanism by default.
        expected_failures: by mechanism name, checks that must fail, each with a reason.
        slow: add the checks that take seconds each, marked ``slow``.
    """
    import pytest

    cases = []
    for attention in list_attention() if attentions is None else attentions:
        subject = examine(attention)
        expected = _expected(subject, (expected_failures or {}).get(subject.name))
        for applicable in checks_for(subject, slow=slow):
            reason = expected.get(applicable.name)
            marks = [pytest.mark.slow] if applicable.slow else []
            if reason is not None:
                marks.append(pytest.mark.xfail(reason=reason, strict=True, raises=CheckFailure))
            title = f"{subject}-{applicable.name.removeprefix('check_')}"
            cases.append(pytest.param(subject, applicable, marks=marks, id=title))
    return pytest.mark.parametrize(("subject", "check"), cases)


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What ``module`` gives for ``inputs``, as a tuple for every role."""
    result = module(*inputs)
    return result if isinstance(result, tuple) else (result,)


def layer_outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What ``module`` and each layer within gives for ``inputs``."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, given: Any, result: Any) -> None:
        values = result if isinstance(result, tuple) else (result,)
        found.extend(y for y in values if isinstance(y, Tensor) and y.numel())

    handles = [layer.register_forward_hook(keep) for layer in module.modules()]
    try:
        outputs(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def require(condition: bool, message: str) -> None:
    """Fail with ``message`` unless ``condition``."""
    if not condition:
        raise CheckFailure(message)


def require_close(
    actual: tuple[Tensor, ...] | Tensor,
    expected: tuple[Tensor, ...] | Tensor,
    what: str,
    tolerance: float = 1e-5,
) -> None:
    """Fail unless the largest difference is within ``tolerance`` of the largest magnitude."""
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        actual, expected = (actual,), (expected,)
    for a, b in zip(actual, expected, strict=True):
        require(a.shape == b.shape, f"{what}: shape {tuple(a.shape)}, expected {tuple(b.shape)}")
        if a.numel() == 0:
            continue
        a, b = a.detach().double(), b.detach().double()
        require(bool(torch.isfinite(a).all()), f"{what}: not finite")
        error = (a - b).abs().max().item()
        bound = tolerance * max(b.abs().max().item(), 1e-3)
        require(error <= bound, f"{what}: differs by {error:.3g}, more than {bound:.3g}")


def _expected(subject: Subject, given: Mapping[str, str] | None) -> Mapping[str, str]:
    if given is not None:
        unknown = sorted(set(given) - set(CHECKS))
        if unknown:
            raise ValueError(f"expected_failures names unknown checks: {', '.join(unknown)}")
        return given
    return EXPECTED_FAILURES.get(subject.name, {}) if subject.registered else {}


def _named(error: Exception) -> str:
    return type(error).__name__
