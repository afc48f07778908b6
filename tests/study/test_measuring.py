"""What the rounds of several processes come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.analysis.profile import Passes
from foveate.study.entry import Entry, Trained
from foveate.study.executors import Failure
from foveate.study.measuring import PROCESSES, _time_all, measurement
from foveate.study.plan import Plan
from foveate.study.records import Counts, Records
from foveate.study.run import Run

COUNTS = Counts(10, 20, 3_000_000, 1, "a processor")


def test_latency_is_the_median_of_the_processes_and_its_interval_holds_them_all(tmp_path):
    processes = [Passes([9.0, 10.0, 11.0], 0.3), Passes([11.0, 12.0, 13.0], 0.6),
                 Passes([10.5, 11.0, 11.5], 0.54)]  # fmt: skip
    found = measurement("a", COUNTS, processes)
    latency = found.latency_ms
    assert latency.median == 11.0
    assert latency.processes == (10.0, 12.0, 11.0)
    assert latency.interval == (9.0, 13.0)
    assert (latency.repeats, latency.batch) == (9, 16)
    assert found.energy_mj == pytest.approx(1e3 * 1.44 / 9 / 16)
    assert found.peak_memory_mb == 3.0
    Records(tmp_path).write_measurement(found)
    assert Records(tmp_path).measurement("a") == found


def test_no_counter_means_no_energy():
    assert measurement("a", COUNTS, [Passes([1.0], None)] * 2).energy_mj is None


class Handle:
    def __init__(self, result, failure):
        self.result, self.failure, self.began = result, failure, 0.0

    def poll(self) -> bool:
        return True

    def kill(self, why: str = "") -> None: ...


class Executor:
    """Ends the process whenever the model ``bad`` is run."""

    machines, machine, slots = (), None, None

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []

    def begin(self, root, plan, say) -> None: ...

    def renew(self) -> None: ...

    def close(self) -> None: ...

    def wait(self, handles, seconds=None) -> None: ...

    def submit(self, work, arguments, log, events=lambda event: None, alone=False):
        _, _, models, _, process = arguments
        keys = [model.entry.key for model in models]
        self.calls.append((keys, process))
        for key in keys:
            events(key)
            if key == "bad":
                return Handle(None, Failure("failed", "ended by SIGSEGV"))
        return Handle({key: Passes([1.0, 2.0], None) for key in keys}, None)


def test_a_model_that_ends_the_process_is_left_out_and_named(tmp_path):
    run = Run(Path(tmp_path), Plan())
    models = [Trained(Entry(name), 0) for name in ("good", "bad", "fine")]
    executor = Executor()
    rounds, failures = _time_all(run, executor, models)
    assert {key: len(passes) for key, passes in rounds.items()} == {
        "good": PROCESSES, "fine": PROCESSES
    }  # fmt: skip
    assert failures == [f"timing bad: ended by SIGSEGV; see {tmp_path / 'measured/timing.log'}"]
    assert [process for _, process in executor.calls] == [0, 0, 1, 2]
