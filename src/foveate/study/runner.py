"""Running a study: its trials, some at a time, then its measurements, then its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from foveate._files import read_json, write_json
from foveate.data.images import ImageSet, drop_pixels, prepare
from foveate.study import process
from foveate.study.environment import changes, environment
from foveate.study.plan import Entry
from foveate.study.process import Child
from foveate.study.progress import Lines
from foveate.study.store import NoRoomError, Run, StudyError, failure, no_room

_TRIAL = "foveate.study.trial"


@dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Attributes:
        run: its directory.
        rows: a row a trial, as in ``results.json``.
        failed: what went wrong, one line each.
        report: the page.
    """

    run: Run
    rows: list[dict[str, Any]]
    failed: list[str]
    report: Path


def run_study(run: Run, show: Lines) -> Outcome:
    """Bring the study in a run directory to its end, from wherever it stands.

    Raises:
        StudyError: if another process is at work there, the plan is refused, or the disk is full.
        DataError: if the data cannot be used.
    """
    process.warm_up()
    plan = run.plan
    with run.held():
        for leftover in run.root.rglob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        _note_environment(run, show)
        pending = [(entry, seed) for entry, seed in plan.trials if not run.finished(entry, seed)]
        unmeasured = [entry for entry in plan.entries if run.measured(entry) is None]
        if pending or unmeasured:
            try:
                images = _prepare(run, show)
                known = _probe(run, images, show) if pending else {}
            except NoRoomError:
                raise
            except ValueError:
                run.discard_if_new()
                raise
            show.study(len(plan.trials) - len(pending), len(plan.trials))
            _train_all(run, pending, known, show)
            failed = _measure_all(run, show)
        else:
            failed = []
        rows = run.write_results()
        report = _write_report(run)
        drop_pixels(run.data)
    failed = [f"{row['label']}, seed {row['seed']}: {row['error']}"
              for row in rows if row["status"] == "failed"] + failed  # fmt: skip
    return Outcome(run, rows, failed, report)


def _write_report(run: Run) -> Path:
    from foveate.study.report import write_report  # late: it imports plotting

    return write_report(run.root)


def _note_environment(run: Run, show: Lines) -> None:
    path = run.root / "environment.json"
    now = environment(run.plan)
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    different = changes(before, now)
    if different:
        show.say(f"numbers may differ from the first part of the study: {'; '.join(different)}")
    resumed = [*before.get("resumed", []), {"at": now["started"], "changed": different}]
    write_json(path, {**before, "resumed": resumed})


def _prepare(run: Run, show: Lines) -> ImageSet:
    plan = run.plan
    images = prepare(
        run.data,
        plan.data,
        plan.image_size or (0, 0),
        root=plan.data_root,
        limit=plan.limit,
        progress=show.images,
    )
    for line in images.findings.lines():
        show.say(line)
    show.say(
        f"{len(images.train)} images to train on, {len(images.test)} held out, "
        f"{len(images.classes)} classes"
    )
    return images


def _probe(run: Run, images: ImageSet, show: Lines) -> dict[str, dict[str, Any]]:
    """Have every model built once; returns what is known of each by its key."""
    looking = ""

    def remember(label: str) -> None:
        nonlocal looking
        looking = label

    arguments = (run.plan, len(images.classes), images.channels)
    log = run.root / "probe.log"
    child = Child(f"{_TRIAL}:probe", arguments, log, remember).wait()
    _raise_if_stopped(run, child)
    if child.refused:
        raise StudyError(child.error or "")
    if child.error is not None:
        show.say(f"looking at {looking or 'the plan'} failed ({child.error}); its trials will tell")
        return {}
    log.unlink(missing_ok=True)
    return child.result


def _train_all(
    run: Run, pending: list[tuple[Entry, int]], known: dict[str, dict[str, Any]], show: Lines
) -> None:
    plan = run.plan
    waiting = list(reversed(pending))
    active: dict[str, tuple[Child, Entry, int]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < (plan.workers or 1):
                entry, seed = waiting.pop()
                name = f"{entry.label}, seed {seed}"
                show.begin(name)
                log = run.trial(entry, seed) / "log.txt"
                child = Child(
                    f"{_TRIAL}:run_trial", (run.root, entry, seed), log, _teller(name, run, show)
                )
                active[name] = (child, entry, seed)
            wait([handle for child, _, _ in active.values() for handle in child.handles])
            for name, (child, entry, seed) in list(active.items()):
                if child.read():
                    del active[name]
                    _raise_if_stopped(run, child)
                    show.end(name, _settle(run, child, entry, seed, known), trial=True)
                    run.write_results()
    finally:
        for child, _, _ in active.values():
            child.kill()


def _teller(name: str, run: Run, show: Lines) -> Callable[[Any], None]:
    return lambda event: show.event(name, event, run.plan.epochs)


def _settle(
    run: Run, child: Child, entry: Entry, seed: int, known: dict[str, dict[str, Any]]
) -> str:
    """Put the result of a failed trial in place; a finished one has done so itself."""
    if child.error is None:
        return f"accuracy {child.result['accuracy']:.1%}"
    directory = run.trial(entry, seed)
    directory.mkdir(parents=True, exist_ok=True)
    result = {**failure(run, entry, seed, child.error), **known.get(entry.key, {})}
    write_json(directory / "trial.json", result)
    return f"FAILED: {child.error}; see {directory / 'log.txt'}"


def _measure_all(run: Run, show: Lines) -> list[str]:
    """Measure one trained model of each, one after the other with nothing else running."""
    failed = []
    for entry in run.plan.entries:
        seeds = [seed for seed in run.plan.seeds if run.finished(entry, seed)]
        if not seeds or run.measured(entry) is not None:
            continue
        name = f"measuring {entry.label}"
        show.begin(name)
        log = run.root / "measured" / f"{entry.key}.log"
        child = Child(f"{_TRIAL}:measure", (run.root, entry, seeds[0]), log).wait()
        _raise_if_stopped(run, child)
        if child.error is not None:
            failed.append(f"measuring {entry.label}: {child.error}")
            show.end(name, f"FAILED: {child.error}; see {log}", trial=False)
        else:
            latency = child.result["latency_ms"]
            what = f"{latency['median']:.2f} ms for {latency['batch']} images"
            show.end(name, what, trial=False)
    return failed


def _raise_if_stopped(run: Run, child: Child) -> None:
    if child.out_of_room:
        raise no_room(run.root, child.error or "a file")
