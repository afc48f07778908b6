"""Running a study: its trials, some at a time, then its measurements, then its report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from foveate._files import write_json
from foveate.data.images import ImageSet, drop_pixels
from foveate.data.record import SetRecord
from foveate.data.sources.base import FINAL, DataError
from foveate.study.answer import answer
from foveate.study.entry import Entry
from foveate.study.environment import changes, environment, unlike
from foveate.study.executors import Executor, Failure, Handle
from foveate.study.host import own_host
from foveate.study.kinds import KINDS
from foveate.study.matching import matched_lines, matched_plan
from foveate.study.measuring import measure_all
from foveate.study.numbers import show_value
from foveate.study.outcome import StudyResult
from foveate.study.plan import Plan
from foveate.study.progress import ProgressLines, Remaining
from foveate.study.provenance import check_settings, note_settings, read_trial
from foveate.study.records import (
    FINAL_PREDICTIONS,
    DamagedRunError,
    Health,
    HostRecord,
    MatchedHost,
    Resumption,
    Subject,
    TrialRecord,
)
from foveate.study.results import image_record, read_results
from foveate.study.run import DiskFullError, Run, StudyError
from foveate.study.runs import VERDICT
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
    with run.locked():
        return _run_study(run, executor, show, command)


def _run_study(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None
) -> StudyResult:
    from foveate.study.report.page import write_report  # late: it imports plotting

    for leftover in run.root.rglob(".*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    failures = _work_off(run, executor, show, command)
    results = read_results(run.root, run.plan)
    verdict = judge(results.scores, results.controls, results.metric, results.unhealthy)
    write_spreadsheets(results)
    write_json(run.root / VERDICT, {"answer": answer(results, verdict)})
    report = write_report(results, verdict)
    drop_pixels(run.data)
    return StudyResult(results, verdict, results.failures + failures, report)


def _work_off(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None
) -> list[str]:
    """Train and measure what is not there yet; returns the measurements that failed."""
    plan, records = run.plan, run.records
    check_settings(records, plan)
    images = image_record(run.root)
    found = [(e, seed, read_trial(records, plan, e, seed, images)) for e, seed in plan.trials]
    trials = [(entry, seed, trial and trial.record) for entry, seed, trial in found]
    pending = [(e, seed) for e, seed, trial in trials if trial is None or trial.status == "failed"]
    for entry, seed, trial in trials:
        if trial is not None and trial.status == "done":  # perhaps killed while these were removed
            _drop_checkpoints(records.trial_folder(entry.key, seed))
    for entry in plan.entries:
        if records.tuning(entry.key) is not None:
            shutil.rmtree(run.root / "tuned" / entry.key, ignore_errors=True)
    measured = all(records.measurement(entry.key) for entry in plan.entries)
    if not pending and measured and not _final_is_open(run):
        if plan.executor == "local":  # of a cluster nothing is asked any more
            _note_environment(run, executor, show, command)
        return []
    try:
        _check_runtime(plan, show)
        executor.begin(run.root, plan, show.say)
        _note_environment(run, executor, show, command)
        SetRecord.read(run.data)  # refuses that of another version before models are built
        subjects = _probe(run, executor, show) if pending else {}
        note_settings(records, plan)
        images = _prepare(run, show)
        if pending and own_host(plan.host) is not None:
            subjects = _look_at_host(run, executor, images, show)
    except DiskFullError:
        raise
    except ValueError:
        run.discard_if_new()
        raise
    show.study(len(plan.trials) - len(pending), len(plan.trials))
    run.plan = matched_plan(plan, _match(run, executor, images, show))
    waiting = {(entry.key, seed) for entry, seed in pending}
    pending = [(e, seed) for e, seed in run.plan.trials if (e.key, seed) in waiting]
    failures = _tune_all(run, executor, pending, show)
    if pending:
        show.expect(_expected(run, executor, pending))
    _train_all(run, executor, pending, subjects, show)
    failures += measure_all(run, executor, show)
    if images.final is not None and _final_is_open(run):
        failures += _measure_final(run, executor, len(images.final), show)
    return failures


def _check_runtime(plan: Plan, show: ProgressLines) -> None:
    """Say what latency is measured in, where that is not PyTorch, before anything is trained."""
    if plan.latency == "torch":
        return
    from foveate.study.in_runtime import check_runtime  # late: it imports the exporters

    show.say(check_runtime(plan))


def _note_environment(
    run: Run, executor: Executor, show: ProgressLines, command: Sequence[str] | None
) -> None:
    now = environment(run.plan, command, executor.machines)
    before = run.records.environment()
    for line in unlike(executor.machines):
        show.say(f"numbers may differ from node to node: {line}")
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
        images = KINDS[plan.task].prepare(run.data, plan, show.images)
    except json.JSONDecodeError as error:
        index = run.data / "index.json"
        then = "the images are then read again"
        raise DamagedRunError(run.root, index, error, then) from error
    show.images_done()
    for line in images.findings.lines():
        show.say(line)
    show.say(
        f"{len(images.train)} images to train on, {len(images.test)} held out, "
        f"{len(images.classes)} classes"
    )
    kind = images.augmentation.kind
    if plan.augment == "auto" and plan.augment_kwargs and kind != "photo":
        show.say(f"augment_kwargs is not used: the augmentation is {kind}; photo has options")
    return images


def _probe(run: Run, executor: Executor, show: ProgressLines) -> dict[str, Subject]:
    """Have every model built once; returns what is known of each by its key."""
    return _look(run, executor, show, "probe", (run.plan,)) or {}


def _look_at_host(
    run: Run, executor: Executor, images: ImageSet, show: ProgressLines
) -> dict[str, Subject]:
    """The same for a host of the user's own, now that the images are known."""
    arguments = (run.plan, len(images.classes), images.channels, images.moments)
    found = _look(run, executor, show, "look_at_host", arguments)
    if found is None:
        return {}
    _keep_host(run, found.host, show)
    return found.subjects


def _look(
    run: Run, executor: Executor, show: ProgressLines, function: str, arguments: tuple[Any, ...]
) -> Any:
    """What a function of :mod:`foveate.study.probe` finds; None if its process came to an end."""
    looking = ""

    def remember(label: str) -> None:
        nonlocal looking
        looking = label

    log = run.root / "probe.log"
    handle = executor.submit(f"foveate.study.probe:{function}", arguments, log, remember)
    failure = _finish(run, executor, handle)
    if failure is None:
        log.unlink(missing_ok=True)
        return handle.result
    if failure.kind == "refused":
        raise StudyError(failure.reason)
    show.say(f"looking at {looking or 'the plan'} failed ({failure.reason}); its trials will tell")
    return None


def _keep_host(run: Run, host: HostRecord, show: ProgressLines) -> None:
    """Note what a host of the user's own is, and say it once; refuse another one than before."""
    before = run.records.host()
    if before is None:
        for line in host.said:
            show.say(line)
        where = "place" if host.places == 1 else "places"
        show.say(f"{host.host}: {host.places} {where} to compare in")
    elif before.digests != host.digests:
        file = next(f for f in host.digests if before.digests.get(f) != host.digests[f])
        raise StudyError(
            f"{file} is not what it was when this study began; put it back, or choose another --out"
        )
    run.records.write_host(host)


def _match(
    run: Run, executor: Executor, images: ImageSet, show: ProgressLines
) -> dict[str, MatchedHost]:
    """The hosts at equal cost, where the plan asks for them; said row by row."""
    plan, known = run.plan, run.records.matched()
    if plan.match is None or known:
        return known
    log = run.root / "match.log"
    arguments = (plan, len(images.classes), images.channels)
    handle = executor.submit("foveate.study.costing:match_hosts", arguments, log, alone=True)
    failure = _finish(run, executor, handle)
    if failure is not None:
        run.discard_if_new()
        raise StudyError(failure.reason)
    log.unlink(missing_ok=True)
    run.records.write_matched(handle.result)
    for line in matched_lines(handle.result.values()):
        show.say(line)
    return handle.result


_ESTIMATE_SECONDS = 20.0


def _expected(run: Run, executor: Executor, pending: Sequence[tuple[Entry, int]]) -> Remaining:
    """What tells how long these trials take; by measured steps where that succeeds in time."""
    rows = {_name(entry, seed): entry.key for entry, seed in pending}
    log = run.root / "steps.log"
    work = (run.root, run.plan, list(dict.fromkeys(rows.values())))
    handle = executor.submit("foveate.study.costing:step_seconds", work, log)
    end = time.monotonic() + _ESTIMATE_SECONDS
    while not handle.poll() and time.monotonic() < end:
        executor.wait([handle], end - time.monotonic())
    handle.kill("it took too long")  # no trial is to start in a process where all models have run
    if handle.failure is None:
        log.unlink(missing_ok=True)
    return Remaining(rows, run.plan.workers or executor.slots or 1, handle.result or {})


class _Job(NamedTuple):
    """Work for an executor, with what is done when it is over.

    Attributes:
        name: that progress shows.
        work: ``"module:function"``.
        arguments: of it.
        log: what it prints goes there.
        settle: called with its handle when it is over; returns what came of it, in words.
        trial: whether progress counts it.
        minutes: after which it is stopped; None for no limit.
    """

    name: str
    work: str
    arguments: tuple[Any, ...]
    log: Path
    settle: Callable[[Handle], str]
    trial: bool
    minutes: float | None = None


def _run_all(run: Run, executor: Executor, jobs: Sequence[_Job], show: ProgressLines) -> None:
    """Run jobs, as many at a time as the plan says; without a word of it, as the executor takes."""
    waiting = list(reversed(jobs))
    active: dict[str, tuple[Handle, _Job]] = {}
    shown: set[str] = set()
    try:
        while waiting or active:
            while waiting and len(active) < (run.plan.workers or len(jobs)):
                job = waiting.pop()
                tell = partial(show.event, job.name, plan=run.plan)
                handle = executor.submit(job.work, job.arguments, job.log, tell)
                active[job.name] = (handle, job)
            _begin_shown(active, shown, show)
            limited = any(job.minutes for _, job in active.values())
            executor.wait([handle for handle, _ in active.values()], 1.0 if limited else None)
            _begin_shown(active, shown, show)
            for name, (handle, job) in list(active.items()):
                over = handle.poll()
                if not over and _out_of_time(handle, job):
                    handle.kill(f"stopped after {job.minutes:g} minutes, as trial_minutes says")
                    over = True
                if over:
                    del active[name]
                    _raise_if_disk_full(run, handle.failure)
                    if name not in shown:  # it was over before it was heard of
                        show.begin(name)
                    show.end(name, job.settle(handle), trial=job.trial)
    finally:
        for handle, _ in active.values():
            handle.kill("stopped")


def _begin_shown(
    active: Mapping[str, tuple[Handle, _Job]], shown: set[str], show: ProgressLines
) -> None:
    """Show what a machine has taken up; in a cluster work waits for a place."""
    for name, (handle, _) in active.items():
        if handle.began is not None and name not in shown:
            shown.add(name)
            show.begin(name)


def _out_of_time(handle: Handle, job: _Job) -> bool:
    began, minutes = handle.began, job.minutes
    return bool(minutes) and began is not None and time.monotonic() - began > 60 * (minutes or 0)


def _tune_all(
    run: Run, executor: Executor, pending: list[tuple[Entry, int]], show: ProgressLines
) -> list[str]:
    """Choose a learning rate for everything that is still to be trained; returns what failed.

    What could not be tuned is not trained either: it would run with another budget than the rest.
    """
    plan, records = run.plan, run.records
    if plan.tune == "none":
        return []
    failures: dict[str, str] = {}

    def settle(entry: Entry, handle: Handle) -> str:
        if handle.failure is not None:
            failures[entry.key] = f"tuning {entry.label}: {handle.failure.reason}"
            return f"FAILED: {handle.failure.reason}"
        return f"{handle.result.lr:g} of {', '.join(f'{lr:g}' for lr in plan.lr_grid)}"

    entries = list(dict.fromkeys(entry.key for entry, _ in pending))
    jobs = [
        _Job(
            f"learning rate of {entry.label}",
            f"{_TRIAL}:tune",
            (run.root, plan, entry),
            run.root / "tuned" / f"{entry.key}.log",
            partial(settle, entry),
            trial=False,
        )
        for entry in plan.entries
        if entry.key in entries and records.tuning(entry.key) is None
    ]
    _run_all(run, executor, jobs, show)
    pending[:] = [(entry, seed) for entry, seed in pending if entry.key not in failures]
    return list(failures.values())


def _train_all(
    run: Run,
    executor: Executor,
    pending: list[tuple[Entry, int]],
    subjects: dict[str, Subject],
    show: ProgressLines,
) -> None:
    plan = run.plan
    tables = _Tables(run.root, plan)

    def settle(entry: Entry, seed: int, handle: Handle) -> str:
        what = _settle(run, handle, entry, seed, subjects)
        tables.write()
        return what

    jobs = [
        _Job(
            _name(entry, seed),
            f"{_TRIAL}:run_trial",
            (run.root, plan, entry, seed),
            run.records.trial_folder(entry.key, seed) / "log.txt",
            partial(settle, entry, seed),
            trial=True,
            minutes=plan.trial_minutes,
        )
        for entry, seed in pending
    ]
    _run_all(run, executor, jobs, show)


class _Tables:
    """The tables of trials that are over, kept up to date while others run.

    Every trial's record is read for them: where there are many, one in twenty seconds of the
    study's time is what they may take.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._due = 0.0

    def write(self) -> None:
        """Write them, if they have not just been written."""
        began = time.monotonic()
        if began < self._due:
            return
        write_spreadsheets(read_results(self._root, self._plan))
        now = time.monotonic()
        self._due = now + 20 * (now - began)


def _name(entry: Entry, seed: int) -> str:
    """What progress calls a trial."""
    return f"{entry.label}, seed {seed}"


def _settle(run: Run, handle: Handle, entry: Entry, seed: int, subjects: dict[str, Subject]) -> str:
    """Put the record of a failed trial in place; a finished one has done so itself."""
    metric = run.plan.metric
    if handle.failure is None:
        return _said_of(handle.result)
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


def _said_of(trial: TrialRecord) -> str:
    """What a trial came to, in words."""
    if trial.score is None:
        return f"FAILED: {trial.error}"
    health = trial.health or Health()
    notes = [
        what
        for holds, what in (
            (health.at_chance, "at chance: it did not learn"),
            (health.diverged, "diverged"),
            (health.rising, "still rising"),
        )
        if holds
    ]
    said = f"{trial.metric.words} {show_value(trial.score, trial.metric)}"
    return f"{said} ({', '.join(notes)})" if notes else said


def _drop_checkpoints(folder: Path) -> None:
    """What a trial needs only until it is whole; this process does not import what wrote it."""
    for name in ("last.ckpt", "best.safetensors"):
        for path in (folder / name, *folder.glob(f"fold*/{name}")):
            path.unlink(missing_ok=True)


def _final_is_open(run: Run) -> bool:
    """Whether images are kept for the very end that a trained model has not predicted yet."""
    try:
        record = SetRecord.read(run.data)
    except DataError:  # of another version, which kept none
        return False
    if record is None or FINAL not in record.splits:
        return False
    trials = [run.records.trial(entry.key, seed) for entry, seed in run.plan.trials]
    return any(
        trial is not None
        and trial.status == "done"
        and run.records.predictions(trial.subject.attention, trial.seed, FINAL_PREDICTIONS) is None
        for trial in trials
    )


def _measure_final(run: Run, executor: Executor, images: int, show: ProgressLines) -> list[str]:
    """Use the images kept for the very end, once, when everything else is done."""
    name = f"measuring on the {images:,} images kept for the very end"
    show.begin(name)
    log = run.root / "measured" / "final.log"
    handle = executor.submit(f"{_TRIAL}:measure_final", (run.root, run.plan), log)
    failure = _finish(run, executor, handle)
    if failure is None:
        log.unlink(missing_ok=True)
        show.end(name, "done", trial=False)
        return []
    show.end(name, f"FAILED: {failure.reason}; see {log}", trial=False)
    return [f"{name}: {failure.reason}"]


def _finish(run: Run, executor: Executor, handle: Handle) -> Failure | None:
    """Wait until the work is over; returns why it failed, if it did."""
    while not handle.poll():
        executor.wait([handle], None)
    _raise_if_disk_full(run, handle.failure)
    return handle.failure


def _raise_if_disk_full(run: Run, failure: Failure | None) -> None:
    if failure is not None and failure.kind == "disk full":
        raise DiskFullError(run.root, failure.reason)
