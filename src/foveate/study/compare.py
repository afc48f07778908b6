"""Comparing mechanisms with one call; ``foveate compare`` does the same from a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.study.executors.local import LocalExecutor
from foveate.study.mirror import is_address, mirrored
from foveate.study.outcome import StudyResult
from foveate.study.plan import Plan, PlanError, complete, load_plan, read_plan
from foveate.study.progress import progress
from foveate.study.run import Run
from foveate.study.runner import run_study

if TYPE_CHECKING:
    from foveate.study.executors.ray import RayExecutor

_OF_A_START = ("executor", "address")
"""Settings that say where a study goes on, and may be given with ``resume``."""


def compare(
    plan: Plan | Mapping[str, Any] | str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    command: Sequence[str] | None = None,
    **settings: Any,
) -> StudyResult:
    """Train mechanisms side by side, on the same images with the same recipe, and report.

    What stands in the place of the attention in the host is the only thing that changes from one
    model to the next; each is trained once for every seed, in a process of its own. Progress is
    printed; an interrupted study goes on with ``resume``.

    ::

        result = foveate.compare(data="photos", attention=["slide", "cbam"], seeds=5, epochs=30)
        result.report  # the page

    Args:
        plan: where the settings start from: a plan, a mapping, or a YAML or JSON file such as the
            ``plan.yaml`` of another run; None for the defaults.
        out: the run directory, or an address that fsspec knows, such as ``s3://bucket/run``
            (:mod:`foveate.study.mirror`); a dated one under ``runs/`` where None.
        resume: the run directory of a study that is to go on, in place of all other arguments but
            ``executor`` and ``address``.
        command: what was typed, if the call comes from a command line; the report repeats it.
        **settings: fields of :class:`foveate.study.plan.Plan` by name, which take precedence over
            ``plan``; ``foveate compare --help`` says what each is.

    Returns:
        The results, the verdict, and the path of the report.

    Raises:
        PlanError: if a setting is unknown (with the nearest) or does not fit.
        StudyError: if the directory is another study's, or the study cannot go on.
        DataError: if the data cannot be used.
    """
    place = out if resume is None else resume
    if place is None or not is_address(place):
        return _compare(plan, out, resume, command, settings, None)
    with mirrored(place) as local:
        here = (local, None) if resume is None else (None, local)
        result = _compare(plan, *here, command, settings, os.fspath(place))
        return replace(result, report=f"{os.fspath(place).rstrip('/')}/{result.report.name}")


def _compare(
    plan: Plan | Mapping[str, Any] | str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    command: Sequence[str] | None,
    settings: Mapping[str, Any],
    address: str | None,
) -> StudyResult:
    """See :func:`compare`; ``address`` is what the user calls the run directory."""
    stated = _stated(plan, out, resume, settings)
    if address is not None and stated.executor != "local":
        raise PlanError(
            f"executor is {stated.executor}, whose nodes need a run directory that all of them "
            f"share: give one in place of {address}"
        )
    executor = _executor(stated)
    try:
        run = _run_directory(stated, out, resume, executor)
        try:
            with progress() as show:
                show.say(f"run directory: {address or run.root}")
                return run_study(run, executor, show, command)
        except KeyboardInterrupt:
            again = address or run.root
            print(f"stopped; go on with: foveate compare --resume {again}", file=sys.stderr)
            raise
    finally:
        executor.close()


def _stated(
    plan: Plan | Mapping[str, Any] | str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    settings: Mapping[str, Any],
) -> Plan:
    """The plan as the user states it, or that of the run that goes on."""
    if resume is not None:
        given = {"plan": plan, "out": out}
        others = [*settings, *(name for name, value in given.items() if value is not None)]
        others = [name for name in others if name not in _OF_A_START]
        if others:
            raise PlanError(
                f"resume goes on with the plan of the run; leave out {others[0]!r}, or start anew "
                f"from that plan: --plan {Path(resume) / 'plan.yaml'}"
            )
        return read_plan({**Run.open(Path(resume)).plan.to_dict(), **settings}, "the settings")
    if isinstance(plan, (str, PathLike)):
        plan = load_plan(Path(plan))
    elif plan is not None and not isinstance(plan, Plan):
        if not isinstance(plan, Mapping):
            raise PlanError(
                "plan must be a Plan, a mapping or the path of a file, got "
                f"{type(plan).__name__}; what is compared goes by name: attention=[...]"
            )
        plan = read_plan(plan)
    base = {} if plan is None else plan.to_dict()
    return read_plan({**base, **settings}, "the settings")


def _executor(plan: Plan) -> LocalExecutor | RayExecutor:
    """Where the plan says that trials run."""
    if plan.executor == "local":
        executor = LocalExecutor()
        executor.warm_up()  # while this process imports, the server of its trials does
        return executor
    try:
        from foveate.study.executors.ray import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise PlanError("executor ray needs Ray: pip install 'foveate[study,ray]'") from error
    return RayExecutor(plan.address)


def _run_directory(
    stated: Plan,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    executor: LocalExecutor | RayExecutor,
) -> Run:
    """The run directory; nodes of a cluster know it by its whole path."""
    now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    root = Path(resume or out or f"runs/{now}")
    root = root if stated.executor == "local" else root.absolute()
    if resume is not None:
        return Run(root, stated)
    return Run.begin(root, complete(stated, executor.cluster))
