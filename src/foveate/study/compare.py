"""Comparing mechanisms with one call; ``foveate compare`` does the same from a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from foveate.study.executors.local import LocalExecutor
from foveate.study.outcome import StudyResult
from foveate.study.plan import Plan, PlanError, complete, load_plan, read_plan
from foveate.study.progress import progress
from foveate.study.run import Run
from foveate.study.runner import run_study


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
        out: the run directory; a dated one under ``runs/`` where None.
        resume: the run directory of a study that is to go on, in place of all other arguments.
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
    executor = LocalExecutor()
    executor.warm_up()  # while this process imports, the server of its trials does
    run = _run_directory(plan, out, resume, settings)
    try:
        executor.warm_up(
            1 + (run.plan.workers or 1)
        )  # the one that looks at the plan runs no trial
        with progress() as show:
            show.say(f"run directory: {run.root}")
            return run_study(run, executor, show, command)
    except KeyboardInterrupt:
        print(f"stopped; go on with: foveate compare --resume {run.root}", file=sys.stderr)
        raise
    finally:
        executor.close()


def _run_directory(
    plan: Plan | Mapping[str, Any] | str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    resume: str | PathLike[str] | None,
    settings: Mapping[str, Any],
) -> Run:
    if resume is not None:
        given = {"plan": plan, "out": out}
        others = [*settings, *(name for name, value in given.items() if value is not None)]
        if others:
            raise PlanError(
                f"resume goes on with the plan of the run; leave out {others[0]!r}, or start anew "
                f"from that plan: --plan {Path(resume) / 'plan.yaml'}"
            )
        return Run.open(Path(resume))
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
    whole = complete(read_plan({**base, **settings}, "the settings"))
    now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    return Run.begin(Path(out or f"runs/{now}"), whole)
