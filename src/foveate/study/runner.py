"""Running a study: its trials, some at a time, then its measurements, then its report."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from foveate.data.images import ImageSet, drop_pixels, prepare
from foveate.study.entry import Entry
from foveate.study.environment import changes, environment
from foveate.study.executors import Executor, Failure, Handle
from foveate.study.matching import matched_lines, plan_of
from foveate.study.measuring import measure_all
from foveate.study.numbers import show_value
from foveate.study.outcome import StudyResult
from foveate.study.progress import ProgressLines
from foveate.study.records import DamagedRunError, MatchedHost, Resumption, Subject, TrialRecord
from foveate.study.results import read_results
from foveate.study.run import DiskFullError, Run, StudyError
from foveate.study.spreadsheets import write_spreadsheets
from foveate.study.statistics import judge

_TRIAL = "foveate.study.trial"


def run_study(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None = None
) -> StudyResult:
    """Bring the study in a run directory to its end, from wherever it stands.

    Args:
        run: the directory.
        executor: where trials run.
        show: is told how it goes.
        command: what was typed to start it, for the record.

    Raises:
        StudyError: if another process is at work there, the plan is refused, or the disk is full.
        DamagedRunError: if a file in the directory cannot be read.
        DataError: if the data cannot be used.
    """
    try:
        with run.locked():
            return _run_study(run, executor, show, command)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(run.root, error.filename or "a file") from error
        raise


def _run_study(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None
) -> StudyResult:
    from foveate.study.report.page import write_report  # late: it imports plotting

    for leftover in run.root.rglob(".*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    failures = _work_off(run, executor, show, command)
    results = read_results(run.root, run.plan)
    verdict = judge(results.scores, results.controls, results.metric)
    write_spreadsheets(results)
    report = write_report(results, verdict)
    drop_pixels(run.data)
    return StudyResult(results, verdict, results.failures + failures, report)


def _work_off(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None
) -> list[str]:
    """Train and measure what is not there yet; returns the measurements that failed."""
    plan, records = run.plan, run.records
    _note_environment(run, show, command)
    trials = [(entry, seed, records.trial(entry.key, seed)) for entry, seed in plan.trials]
    pending = [(e, seed) for e, seed, trial in trials if trial is None or trial.status == "failed"]
    if not pending and all(records.measurement(entry.key) for entry in plan.entries):
        return []
    try:
        images = _prepare(run, show)
        subjects = _probe(run, executor, images, show) if pending else {}
    except DiskFullError:
        raise
    except ValueError:
        run.discard_if_new()
        raise
    show.study(len(plan.trials) - len(pending), len(plan.trials))
    matched = _match(run, executor, images, show)
    _train_all(run, executor, pending, subjects, show, matched)
    return measure_all(run, executor, show, partial(plan_of, plan, matched))


def _note_environment(run: Run, show: ProgressLines, command: Sequence[str] | None) -> None:
    now, before = environment(run.plan, command), run.records.environment()
    if before is None:
        run.records.write_environment(now)
        return
    different = changes(before, now)
    if different:
        show.say(f"numbers may differ from the first part of the study: {'; '.join(different)}")
    resumed = (*before.resumed, Resumption(now.started, different))
    run.records.write_environment(replace(before, resumed=resumed))


def _prepare(run: Run, show: ProgressLines) -> ImageSet:
    plan = run.plan
    try:
        images = prepare(
            run.data,
            plan.data,
            plan.image_size or (0, 0),
            root=plan.data_root,
            limit=plan.limit,
            progress=show.images,
        )
    except json.JSONDecodeError as error:
        index = run.data / "index.json"
        then = "the images are then read again"
        raise DamagedRunError(run.root, index, error, then) from error
    for line in images.findings.lines():
        show.say(line)
    show.say(
        f"{len(images.train)} images to train on, {len(images.test)} held out, "
        f"{len(images.classes)} classes"
    )
    return images


def _probe(
    run: Run, executor: Executor, images: ImageSet, show: ProgressLines
) -> dict[str, Subject]:
    """Have every model built once; returns what is known of each by its key."""
    looking = ""

    def remember(label: str) -> None:
        nonlocal looking
        looking = label

    arguments = (run.plan, len(images.classes), images.channels)
    log = run.root / "probe.log"
    handle = executor.submit(f"{_TRIAL}:probe", arguments, log, remember)
    failure = _finish(run, executor, handle)
    if failure is None:
        log.unlink(missing_ok=True)
        return handle.result
    if failure.kind == "refused":
        raise StudyError(failure.reason)
    show.say(f"looking at {looking or 'the plan'} failed ({failure.reason}); its trials will tell")
    return {}


def _match(
    run: Run, executor: Executor, images: ImageSet, show: ProgressLines
) -> dict[str, MatchedHost]:
    """The hosts at equal cost, where the plan asks for them; said row by row."""
    plan, known = run.plan, run.records.matched()
    if plan.match is None or known:
        return known
    log = run.root / "match.log"
    arguments = (plan, len(images.classes), images.channels)
    handle = executor.submit("foveate.study.costing:match_hosts", arguments, log)
    failure = _finish(run, executor, handle)
    if failure is not None:
        run.discard_if_new()
        raise StudyError(failure.reason)
    log.unlink(missing_ok=True)
    run.records.write_matched(handle.result)
    for line in matched_lines(handle.result.values()):
        show.say(line)
    return handle.result


def _train_all(
    run: Run,
    executor: Executor,
    pending: list[tuple[Entry, int]],
    subjects: dict[str, Subject],
    show: ProgressLines,
    matched: Mapping[str, MatchedHost],
) -> None:
    plan = run.plan
    waiting = list(reversed(pending))
    active: dict[str, tuple[Handle, Entry, int]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < (plan.workers or 1):
                entry, seed = waiting.pop()
                name = f"{entry.label}, seed {seed}"
                show.begin(name)
                log = run.records.trial_folder(entry.key, seed) / "log.txt"
                tell = partial(show.event, name, plan=plan)
                work = (run.root, plan_of(plan, matched, entry), entry, seed)
                active[name] = (executor.submit(f"{_TRIAL}:run_trial", work, log, tell), *work[2:])
            executor.wait([handle for handle, _, _ in active.values()])
            for name, (handle, entry, seed) in list(active.items()):
                if handle.poll():
                    del active[name]
                    _raise_if_disk_full(run, handle.failure)
                    what = _settle(run, handle, entry, seed, subjects)
                    show.end(name, what, trial=True)
                    write_spreadsheets(read_results(run.root, plan))
    finally:
        for handle, _, _ in active.values():
            handle.kill()


def _settle(run: Run, handle: Handle, entry: Entry, seed: int, subjects: dict[str, Subject]) -> str:
    """Put the record of a failed trial in place; a finished one has done so itself."""
    metric = run.plan.metric
    if handle.failure is None:
        return f"{metric.name} {show_value(handle.result.score, metric)}"
    kind = "control" if entry.control else None
    unknown = Subject(entry.key, entry.name, entry.label, entry.control, kind, kind)
    record = TrialRecord(
        subject=subjects.get(entry.key, unknown),
        seed=seed,
        host=run.plan.host,
        epochs=run.plan.epochs,
        metric=metric,
        error=handle.failure.reason,
    )
    run.records.write_trial(record)
    log = run.records.trial_folder(entry.key, seed) / "log.txt"
    return f"FAILED: {handle.failure.reason}; see {log}"


def _finish(run: Run, executor: Executor, handle: Handle) -> Failure | None:
    """Wait until the work is over; returns why it failed, if it did."""
    while not handle.poll():
        executor.wait([handle])
    _raise_if_disk_full(run, handle.failure)
    return handle.failure


def _raise_if_disk_full(run: Run, failure: Failure | None) -> None:
    if failure is not None and failure.kind == "disk full":
        raise DiskFullError(run.root, failure.reason)
