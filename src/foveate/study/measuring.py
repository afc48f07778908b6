"""Measuring what the trained models cost, as deployed and with nothing else running.

Each model is first looked at in a process of its own: its attention maps, its memory, its counts.
Then all models are timed together, in several processes one after the other: within a process they
take turns pass by pass, so that a machine that slows down slows all alike, and what differs from
one process to the next (where memory lies, which core runs) shows as the spread between them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from foveate.analysis.profile import Passes, median_interval, quartiles
from foveate.study.disputed import disputed
from foveate.study.entry import Trained
from foveate.study.executors import Executor, Failure
from foveate.study.progress import ProgressLines
from foveate.study.records import Counts, InRuntime, Latency, Measurement
from foveate.study.results import read_results
from foveate.study.run import DiskFullError, Run

BATCH = 16
"""Images a pass of PyTorch's; of other runtimes one, as files that are deployed mostly take."""

PROCESSES = 3

_COSTING = "foveate.study.costing"


def measure_all(run: Run, executor: Executor, show: ProgressLines) -> list[str]:
    """Measure one trained model of each thing compared; returns what failed, one line each.

    Latencies are comparable only within the same rounds: where one is missing all are timed anew.

    Args:
        run: the run directory.
        executor: where processes run.
        show: is told how it goes.
    """
    trained = list(_trained(run))
    if all(run.records.measurement(model.entry.key) for model in trained):
        return []
    failures: list[str] = []
    counts: dict[str, Counts] = {}
    show.begin("measuring")
    images = [one.image for one in disputed(read_results(run.root, run.plan))]
    for model in trained:
        log = run.root / "measured" / f"{model.entry.key}.log"
        work = (run.root, run.plan, model, BATCH, images)
        handle = executor.submit(f"{_COSTING}:look", work, log, alone=True)
        failure = _finish(run, executor, handle)
        if failure is None:
            counts[model.entry.key] = handle.result
        else:
            failures.append(f"measuring {model.entry.label}: {failure.reason}; see {log}")
    if images and trained:
        log = run.root / "measured" / "pictures.log"
        work = (run.root, run.plan, images)
        failure = _finish(run, executor, executor.submit(f"{_COSTING}:take_pictures", work, log))
        failures += [f"pictures: {failure.reason}; see {log}"] if failure else []
    machine = executor.machine
    elsewhere, more = _write_all(run, executor, [m for m in trained if m.entry.key in counts], show)
    failures += more
    without = [key for key, made in elsewhere.items() if made.error is not None]
    ready = _ready(run, counts, elsewhere)
    timed = [model for model in trained if model.entry.key in ready]
    rounds, more = _time_all(run, executor, timed)
    failures += more
    shutil.rmtree(run.records.exported, ignore_errors=True)
    if executor.machine != machine:
        rounds, without = {}, []
        failures.append(f"timing: node {machine} was lost; another one's times do not compare")
    for key, passes in [*rounds.items(), *((key, []) for key in without)]:
        found = measurement(key, counts[key], passes, executor.machine, elsewhere.get(key))
        run.records.write_measurement(found)
    for line in failures:
        show.say(f"FAILED: {line}")
    show.end("measuring", f"{len(rounds)} models in {PROCESSES} processes", trial=False)
    return failures


def _write_all(
    run: Run, executor: Executor, trained: Sequence[Trained], show: ProgressLines
) -> tuple[dict[str, InRuntime], list[str]]:
    """The files for another runtime, by key, and what failed; neither where that is PyTorch.

    A model that cannot be exported has no latency, and the reason is kept; that in PyTorch would
    not compare.
    """
    made: dict[str, InRuntime] = {}
    failures: list[str] = []
    if run.plan.latency == "torch":
        return made, failures
    run.records.exported.mkdir(exist_ok=True)
    for model in trained:
        entry = model.entry
        log = run.root / "measured" / f"{entry.key}.export.log"
        work = (run.root, run.plan, model)
        handle = executor.submit(f"{_COSTING}:write_for_runtime", work, log, alone=True)
        failure = _finish(run, executor, handle)
        if failure is not None:
            failures.append(f"exporting {entry.label}: {failure.reason}; see {log}")
            continue
        log.unlink(missing_ok=True)
        made[entry.key] = found = handle.result
        if found.error is not None:
            show.say(f"{entry.label} has no latency in {found.runtime}: {found.error}")
    return made, failures


def _ready(run: Run, counts: Collection[str], elsewhere: Mapping[str, InRuntime]) -> list[str]:
    """What can be timed, by key: what was looked at, and has a file where it needs one."""
    if run.plan.latency == "torch":
        return list(counts)
    return [key for key, made in elsewhere.items() if made.error is None]


def _trained(run: Run) -> Sequence[Trained]:
    """The first finished trial of each thing compared."""
    found = []
    for entry in run.plan.entries:
        trials = [run.records.trial(entry.key, seed) for seed in run.plan.seeds]
        seeds = [trial.seed for trial in trials if trial is not None and trial.status == "done"]
        if seeds:
            found.append(Trained(entry, seeds[0]))
    return found


def _time_all(
    run: Run, executor: Executor, trained: Sequence[Trained]
) -> tuple[dict[str, list[Passes]], list[str]]:
    """Passes of each process by key, and what failed: a model that ends a process is left out."""
    rounds: dict[str, list[Passes]] = {model.entry.key: [] for model in trained}
    failures: list[str] = []
    log = run.root / "measured" / "timing.log"
    process = 0
    while process < PROCESSES and rounds:
        at = ""

        def remember(key: str) -> None:
            nonlocal at
            at = key

        models = [model for model in trained if model.entry.key in rounds]
        size = BATCH if run.plan.latency == "torch" else 1
        work = (run.root, run.plan, models, size, process)
        executor.renew()  # each round of timing in a process of its own
        handle = executor.submit(f"{_COSTING}:time_models", work, log, remember, alone=True)
        failure = _finish(run, executor, handle)
        if failure is None:
            for key, passes in handle.result.items():
                rounds[key].append(passes)
            process += 1
        elif at in rounds:
            del rounds[at]
            label = next(model.entry.label for model in models if model.entry.key == at)
            failures.append(f"timing {label}: {failure.reason}; see {log}")
        else:
            return {}, [*failures, f"timing: {failure.reason}; see {log}"]
    return rounds, failures


def measurement(
    key: str,
    counts: Counts,
    processes: Sequence[Passes],
    machine: str | None = None,
    in_runtime: InRuntime | None = None,
) -> Measurement:
    """What the rounds of all processes come to; no latency where there are none.

    The latency is the median of the processes' medians. Its interval holds the 95 % interval of
    every process's median.
    """
    batch = BATCH if in_runtime is None else 1
    every = [time for passes in processes for time in passes.ms]
    joules = [passes.joules for passes in processes if passes.joules is not None]
    return Measurement(
        attention=key,
        latency_ms=_latency(processes, batch) if processes else None,
        peak_memory_mb=None if counts.peak_memory is None else counts.peak_memory / 1e6,
        parameters=counts.parameters,
        multiply_adds=counts.multiply_adds,
        threads=counts.threads,
        device=counts.device,
        energy_mj=1e3 * sum(joules) / len(every) / batch if joules else None,
        machine=machine,
        in_runtime=in_runtime,
    )


def _latency(processes: Sequence[Passes], batch: int) -> Latency:
    medians = [median(passes.ms) for passes in processes]
    ends = [median_interval(passes.ms) for passes in processes]
    every = [time for passes in processes for time in passes.ms]
    p25, _, p75 = quartiles(every)
    return Latency(
        median=median(medians),
        p25=p25,
        p75=p75,
        batch=batch,
        repeats=len(every),
        processes=tuple(medians),
        low=min(low for low, _ in ends),
        high=max(high for _, high in ends),
    )


def _finish(run: Run, executor: Executor, handle: Any) -> Failure | None:
    while not handle.poll():
        executor.wait([handle])
    failure = handle.failure
    if failure is not None and failure.kind == "disk full":
        raise DiskFullError(run.root, failure.reason)
    return failure
