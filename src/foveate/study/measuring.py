"""Measuring what the trained models cost, as deployed and with nothing else running.

Each model is first looked at in a process of its own: its attention maps, its memory, its counts.
Then all models are timed together, in several processes one after the other: within a process they
take turns pass by pass, so that a machine that slows down slows all alike, and what differs from
one process to the next (where memory lies, which core runs) shows as the spread between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from foveate._random import seed_all
from foveate.analysis.attention_map import attention_layers, attention_map, layer_inputs
from foveate.analysis.flops import count_flops
from foveate.analysis.profile import (
    Passes,
    device_name,
    interleaved,
    median_interval,
    peak_memory,
    quartiles,
)
from foveate.data.batches import held_out_batches
from foveate.data.images import ImageSet, load
from foveate.study.entry import Entry
from foveate.study.executors import Executor, Failure
from foveate.study.numbers import show_ms
from foveate.study.plan import Plan
from foveate.study.progress import ProgressLines
from foveate.study.records import AttentionMaps, Latency, LayerMap, Measurement, Records
from foveate.study.run import DiskFullError, Run
from foveate.study.trial import build, set_up, subject_of
from foveate.surgery.fuse import fuse
from foveate.training import WEIGHTS, load_weights

Tell = Callable[[Any], None]

PROCESSES = 3
BATCH = 16
SECONDS_A_ROW, MOST_SECONDS = 0.6, 20.0
"""Of a process's rounds: for each model, and for all of them."""

_HERE = "foveate.study.measuring"


class Trained(NamedTuple):
    """A trained model, as processes are told of it.

    Attributes:
        plan: that it was built by.
        entry: what stands in it.
        seed: of its trial.
    """

    plan: Plan
    entry: Entry
    seed: int


class Counts(NamedTuple):
    """What looking at one model tells.

    Attributes:
        parameters: as deployed.
        multiply_adds: of one image.
        peak_memory: bytes, beyond weights and input; None where the device cannot tell.
        threads: of the CPU.
        device: its name.
    """

    parameters: int
    multiply_adds: int
    peak_memory: int | None
    threads: int
    device: str


def measure_all(
    run: Run, executor: Executor, show: ProgressLines, plan_of: Callable[[Entry], Plan]
) -> list[str]:
    """Measure one trained model of each thing compared; returns what failed, one line each.

    Latencies are comparable only within the same rounds: where one is missing all are timed anew.

    Args:
        run: the run directory.
        executor: where processes run.
        show: is told how it goes.
        plan_of: the plan that an entry's models are built by.
    """
    trained = list(_trained(run, plan_of))
    if all(run.records.measurement(model.entry.key) for model in trained):
        return []
    failures: list[str] = []
    counts: dict[str, Counts] = {}
    show.begin("measuring")
    for model in trained:
        log = run.root / "measured" / f"{model.entry.key}.log"
        handle = executor.submit(f"{_HERE}:look", (run.root, model), log)
        failure = _finish(run, executor, handle)
        if failure is None:
            counts[model.entry.key] = handle.result
        else:
            failures.append(f"measuring {model.entry.label}: {failure.reason}; see {log}")
    timed = [model for model in trained if model.entry.key in counts]
    rounds, more = _time_all(run, executor, timed)
    failures += more
    for key, passes in rounds.items():
        run.records.write_measurement(measurement(key, counts[key], passes))
    for line in failures:
        show.say(f"FAILED: {line}")
    show.end("measuring", f"{len(rounds)} models in {PROCESSES} processes", trial=False)
    return failures


def _trained(run: Run, plan_of: Callable[[Entry], Plan]) -> Sequence[Trained]:
    """The first finished trial of each thing compared."""
    found = []
    for entry in run.plan.entries:
        trials = [run.records.trial(entry.key, seed) for seed in run.plan.seeds]
        seeds = [trial.seed for trial in trials if trial is not None and trial.status == "done"]
        if seeds:
            found.append(Trained(plan_of(entry), entry, seeds[0]))
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
        work = (run.root, models, process)
        handle = executor.submit(f"{_HERE}:time_models", work, log, remember)
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


def measurement(key: str, counts: Counts, processes: Sequence[Passes]) -> Measurement:
    """What the rounds of all processes come to.

    The latency is the median of the processes' medians. Its interval holds the 95 % interval of
    every process's median.
    """
    medians = [median(passes.ms) for passes in processes]
    ends = [median_interval(passes.ms) for passes in processes]
    every = [time for passes in processes for time in passes.ms]
    p25, _, p75 = quartiles(every)
    joules = [passes.joules for passes in processes if passes.joules is not None]
    return Measurement(
        attention=key,
        latency_ms=Latency(
            median=median(medians),
            p25=p25,
            p75=p75,
            batch=BATCH,
            repeats=len(every),
            processes=tuple(medians),
            low=min(low for low, _ in ends),
            high=max(high for _, high in ends),
        ),
        peak_memory_mb=None if counts.peak_memory is None else counts.peak_memory / 1e6,
        parameters=counts.parameters,
        multiply_adds=counts.multiply_adds,
        threads=counts.threads,
        device=counts.device,
        energy_mj=1e3 * sum(joules) / len(every) / BATCH if joules else None,
    )


def _finish(run: Run, executor: Executor, handle: Any) -> Failure | None:
    while not handle.poll():
        executor.wait([handle])
    failure = handle.failure
    if failure is not None and failure.kind == "disk full":
        raise DiskFullError(run.root, failure.reason)
    return failure


# In processes of their own


def look(root: Path, model: Trained, tell: Tell) -> Counts:
    """Write the attention maps of a trained model, and count what it takes as deployed."""
    plan, entry, _ = model
    images = _begin(root, plan)
    network = _load(root, model, images)
    Records(root).write_attention_maps(attention_maps(plan, entry, network, images))
    deployed = fuse(network)
    one, batch = (_input(plan, images, size) for size in (1, BATCH))
    with torch.no_grad():
        multiply_adds = count_flops(deployed, one) // 2
        memory = peak_memory(partial(deployed, batch), plan.device)
    return Counts(
        parameters=sum(p.numel() for p in deployed.parameters()),
        multiply_adds=multiply_adds,
        peak_memory=memory,
        threads=torch.get_num_threads(),
        device=device_name(plan.device),
    )


def time_models(
    root: Path, models: Sequence[Trained], process: int, tell: Tell
) -> dict[str, Passes]:
    """Time all models in turns; ``tell`` gets the key of each as it is first run."""
    plan = models[0].plan
    images = _begin(root, plan)
    x = _input(plan, images, BATCH)
    calls = {}
    with torch.inference_mode():
        for model in models:
            tell(model.entry.key)
            network = fuse(_load(root, model, images))
            network(x)
            calls[model.entry.key] = partial(network, x)
        tell("")
        seconds = min(SECONDS_A_ROW * len(calls), MOST_SECONDS)
        return interleaved(calls, seconds, plan.device, seed=process)


def _begin(root: Path, plan: Plan) -> ImageSet:
    set_up(plan)
    seed_all(0)
    return load(root / "data")


def _load(root: Path, model: Trained, images: ImageSet) -> nn.Module:
    plan, entry, seed = model
    network = build(plan, entry, len(images.classes), images.channels)
    load_weights(network, Records(root).trial_folder(entry.key, seed) / WEIGHTS)
    return network.eval().to(plan.device)


def _input(plan: Plan, images: ImageSet, batch: int) -> torch.Tensor:
    return torch.randn(batch, images.channels, *(plan.image_size or ()), device=plan.device)


def attention_maps(plan: Plan, entry: Entry, model: nn.Module, images: ImageSet) -> AttentionMaps:
    """Of the middle query in the first block of each stage, averaged over held-out images."""
    x, _ = next(iter(held_out_batches(images, plan.image_size or (0, 0), 16, processes=0)))
    x = x.to(plan.device)
    shown = (x[0] - x[0].min()) / (x[0].max() - x[0].min()).clamp_min(1e-6)
    places = {n: m for n, m in model.named_modules() if n.endswith("blocks.0.attention")}
    chosen = places or attention_layers(model)
    layers = []
    for name, features in layer_inputs(model, x, list(chosen)).items():
        query = (features.shape[2] // 2, features.shape[3] // 2)
        found = attention_map(chosen[name], features, query)
        shares = [[round(value, 6) for value in row] for row in found.map.tolist()]
        layers.append(LayerMap(name, query, found.measure, shares))
    return AttentionMaps(
        subject=subject_of(entry),
        image=(shown * 255).round().byte().permute(1, 2, 0).squeeze(-1).tolist(),
        images=len(x),
        layers=tuple(layers),
    )
