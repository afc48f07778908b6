"""What driving a large study over Ray costs: fake trials that sleep, on nodes that are simulated.

    python benchmarks/ray_scaling.py --trials 1000 --slots 200 --seconds 1

starts a cluster on this machine, bound to it alone: a head without CPUs, and nodes that declare the
slots as CPUs. The study's own runner submits the trials, hears of their progress, reads their
records and writes its tables. It is run twice: once whole, and once with the driver killed (-9) in
the middle and started again. Printed are the wall time beside that of the sleeping alone, the
driver's largest memory, and whether a trial is lost, or was at work twice at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1]))

from foveate._files import write_json
from foveate.study.entry import Entry
from foveate.study.plan import Plan

SEEDS = 5


def run_trial(
    root: Path, plan: Plan, entry: Entry, seed: int, tell: Callable[[Any], None]
) -> SimpleNamespace:
    """In place of foveate.study.trial:run_trial: sleeps, and imports next to nothing."""
    from foveate.study.lock import lock

    folder = root / "trials" / f"{entry.key}-seed{seed}"
    with lock(folder / ".lock", 30.0) as ours:
        if not ours:
            raise RuntimeError(f"another process is at work in {folder}")
        with open(folder / "runs", "a") as file:
            file.write("x")
        seconds = float(plan.host_kwargs["seconds"])
        for part in range(5):
            tell(SimpleNamespace(epoch=0, batch=part, batches=5))
            time.sleep(seconds / 5)
        write_json(
            folder / "trial.json",
            {
                "attention": entry.key, "mechanism": entry.name, "label": entry.label,
                "control": entry.control, "role": "gate", "family": "gates", "seed": seed,
                "host": plan.host, "status": "done", "error": None, "epochs": plan.epochs,
                "parameters": 1, "multiply_adds": 1, "score": 0.5, "loss": 1.0, "history": [],
                "metric": {**plan.metric._asdict(), "bounds": [0.0, 1.0]},
                "train_seconds": seconds, "train_images_per_second": 1.0,
            },
        )  # fmt: skip
    return SimpleNamespace(score=0.5, health=None, metric=plan.metric, error=None)


def plan_of(trials: int, seconds: float) -> Plan:
    rows = [
        Entry("cbam", {}, f"row{number}", control=number == 0) for number in range(trials // SEEDS)
    ]
    return Plan(
        attention=tuple(rows[1:]), controls=tuple(rows[:1]), seeds=tuple(range(SEEDS)),
        device="cpu", threads=1, executor="ray", host_kwargs={"seconds": seconds},
    )  # fmt: skip


def drive(address: str, root: Path, plan: Plan) -> None:
    """The driver: the runner's own loop over the trials that are not over."""
    from foveate.study import runner
    from foveate.study.executors.ray import RayExecutor
    from foveate.study.progress import ProgressLines
    from foveate.study.results import read_results
    from foveate.study.run import Run

    runner._TRIAL = Path(__file__).stem
    run = Run.begin(root, plan)
    with run.locked():
        executor = RayExecutor(address, preload=Path(__file__).stem)
        executor.begin(root, plan, print)
        pending = [(e, s) for e, s in plan.trials if run.records.trial(e.key, s) is None]
        before, processor = _memory_mb(), time.process_time()
        show = ProgressLines()
        show.study(len(plan.trials) - len(pending), len(plan.trials))
        began = time.perf_counter()
        runner._train_all(run, executor, pending, {}, show)
        trained, used = time.perf_counter() - began, time.process_time() - processor
        began = time.perf_counter()
        read_results(root, plan)
        read = time.perf_counter() - began
        executor.close()
    peak = _memory_mb("VmHWM")
    print(
        f"driver: {len(pending)} trials in {trained:.1f} s, of which it computed {used:.1f} s; "
        f"memory {before:.0f} MB before them, {peak:.0f} MB at most; all records are read in "
        f"{read:.2f} s",
        flush=True,
    )


def _memory_mb(field: str = "VmRSS") -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def start_driver(address: str, root: Path, options: argparse.Namespace) -> subprocess.Popen:
    log = open(root.parent / f"{root.name}.log", "a")  # noqa: SIM115  the driver's
    command = [
        sys.executable, __file__, "--drive", address, "--root", str(root),
        "--trials", str(options.trials), "--seconds", str(options.seconds),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def over(root: Path) -> int:
    return sum(1 for _ in root.glob("trials/*/trial.json"))


@contextlib.contextmanager
def cluster_of(options: argparse.Namespace) -> Iterator[str]:
    from tests.study import ray_cluster

    # So many processes that begin at once would time out on a few cores.
    system = {
        "worker_maximum_startup_concurrency": 2 * (os.cpu_count() or 1),
        "worker_register_timeout_seconds": 600,
    }
    cluster = ray_cluster.start(system)
    try:
        for _ in range(options.nodes):
            ray_cluster.add(cluster, options.slots // options.nodes)
        yield cluster.address
    finally:
        cluster.shutdown()


def report(root: Path, options: argparse.Namespace, wall: float) -> None:
    runs = [len(path.read_text()) for path in root.glob("trials/*/runs")]
    ends = sorted(path.stat().st_mtime for path in root.glob("trials/*/trial.json"))
    last = (root.parent / f"{root.name}.log").read_text().splitlines()[-1]
    ideal = options.seconds * options.trials / options.slots
    print(
        f"  {over(root)} of {options.trials} trials over, begun {sum(runs)} times; "
        f"{wall:.1f} s in all, {ends[-1] - ends[0]:.1f} s from the first end to the last; the "
        f"sleeping alone {ideal:.1f} s"
    )
    print(f"  {last}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial sleeps")
    parser.add_argument("--drive", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive, options.root, plan_of(options.trials, options.seconds))
        return
    with tempfile.TemporaryDirectory() as folder, cluster_of(options) as address:
        print(f"{options.trials} trials, {options.slots} slots on {options.nodes} nodes")
        print("undisturbed:", flush=True)
        began = time.perf_counter()
        start_driver(address, Path(folder) / "whole", options).wait()
        report(Path(folder) / "whole", options, time.perf_counter() - began)
        print("driver killed in the middle and started again:")
        root = Path(folder) / "killed"
        began = time.perf_counter()
        driver = start_driver(address, root, options)
        while over(root) < options.trials // 2:
            time.sleep(0.2)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        before = over(root)
        start_driver(address, root, options).wait()
        print(f"  {before} were over when it was killed")
        report(root, options, time.perf_counter() - began)


if __name__ == "__main__":
    main()
