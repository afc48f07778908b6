"""Studies over a Ray cluster: two nodes of one CPU on this machine, bound to it alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foveate.study.executors import _cluster
from foveate.study.plan import Plan
from tests.study import ray_cluster
from tests.study.test_compare import SMALL, numbers, refused

ray = pytest.importorskip("ray")

from foveate.study.executors import ray as module  # noqa: E402  needs Ray
from foveate.study.executors.ray import ClusterError, RayExecutor  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Ray clusters are for POSIX systems")

WORKS = "tests.study.works"
PLAN = Plan(executor="ray", device="cpu", threads=1)
TWELVE = [
    *SMALL, "--attention", "multi_head", "cbam", "--controls", "none", "--seeds", 4, "--threads", 1,
    "--workers", 2,
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    made = ray_cluster.start()
    ray_cluster.add(made)
    ray_cluster.add(made)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def joined(cluster):
    """This process is in the cluster, once for all tests."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def executor(joined, tmp_path_factory, said):
    """One for all tests: it looks at the nodes once."""
    made = RayExecutor(joined.address, preload=WORKS)
    made.begin(tmp_path_factory.mktemp("run"), PLAN, said.append)
    yield made
    made.close()


def finish(executor, handle):
    deadline = time.monotonic() + 120
    while not handle.poll():
        assert time.monotonic() < deadline
        executor.wait([handle], 1.0)
    return handle


def submit(executor, folder, function, *arguments, events=lambda event: None, alone=False):
    return executor.submit(f"{WORKS}:{function}", arguments, folder / "log.txt", events, alone)


def until(holds, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_nodes_are_looked_at_and_do_the_work(executor, tmp_path, said):
    assert [machine.cpus for machine in executor.machines] == [1, 1]
    where = f"costs are measured on {executor.machine}"
    assert said == [f"cluster of 2 nodes, 2 trials at a time; {where}"]
    told: list[int] = []
    work = finish(executor, submit(executor, tmp_path, "who", 1, events=told.append))
    assert work.failure is None
    assert work.result != os.getpid()
    assert work.began is not None
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert log[0].endswith(f" on {executor.machine}")
    assert log[1] == "worked on 1"
    assert told == [1]


def test_what_is_timed_has_a_node_and_a_new_process(executor, tmp_path):
    first = finish(executor, submit(executor, tmp_path, "who", 1, alone=True))
    executor.renew()
    second = finish(executor, submit(executor, tmp_path, "who", 2, alone=True))
    assert first.result != second.result


def test_work_that_fails_or_crashes_says_why_and_is_not_done_again(executor, tmp_path):
    failed = finish(executor, submit(executor, tmp_path, "fail"))
    assert failed.failure == ("refused", "no luck")
    crashed = finish(executor, submit(executor, tmp_path, "crash"))
    assert "ended by SIGKILL" in crashed.failure.reason
    assert (tmp_path / "log.txt").read_text().count(" on ") == 2


def test_killed_work_has_ended(executor, tmp_path):
    pids = tmp_path / "pids"
    handle = submit(executor, tmp_path, "stay", str(pids), 60)
    until(lambda: (executor.wait([handle], 0.2), pids.exists() and pids.read_text())[1])
    handle.kill("it took too long")
    assert handle.poll()
    assert handle.failure == ("failed", "it took too long")
    until(lambda: not alive(int(pids.read_text())), 5.0)


def test_a_node_that_does_not_see_the_run_directory_is_named(joined, tmp_path, monkeypatch):
    monkeypatch.setattr(module.Expected, "put_token", lambda self: None)
    with pytest.raises(ClusterError, match=r"^node \S+: it does not see the run directory .*--out"):
        RayExecutor(preload=WORKS).begin(tmp_path / "elsewhere", PLAN, print)


def test_a_node_with_other_versions_is_named(joined, tmp_path, monkeypatch):
    other = {**module.versions(), "torch": "2.9"}
    monkeypatch.setattr(module, "versions", lambda: other)
    with pytest.raises(ClusterError, match=r"it has torch \S+ and the driver 2\.9"):
        RayExecutor(preload=WORKS).begin(tmp_path, PLAN, print)


def test_what_no_node_has_is_refused(joined, tmp_path):
    plan = Plan(executor="ray", device="cpu", threads=64)
    with pytest.raises(ClusterError, match=r"has the 64 CPUs that a trial takes .* have 0 CPUs, 1"):
        RayExecutor(preload=WORKS).begin(tmp_path, plan, print)


def test_work_of_a_lost_node_goes_on_on_another(executor, joined, tmp_path, said):
    pids = tmp_path / "pids"
    node = ray_cluster.add(joined)
    handles = [submit(executor, tmp_path, "stay", str(pids), 4) for _ in range(3)]
    until(
        lambda: (executor.wait(handles, 0.2), pids.exists() and pids.read_text().count("\n") == 3)[
            1
        ]
    )
    joined.remove_node(node, allow_graceful=False)
    assert all(finish(executor, handle).failure is None for handle in handles)
    assert len(pids.read_text().split()) == 4
    assert [line for line in said if line.startswith("a node was lost: its work goes on")]


@pytest.mark.slow
def test_the_work_of_a_driver_that_is_killed_ends(cluster, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from tests.study import ray_cluster\n"
        "from foveate.study.plan import Plan\n"
        "from foveate.study.executors.ray import RayExecutor\n"
        f"executor = RayExecutor({cluster.address!r}, preload={WORKS!r})\n"
        f"root = Path({str(tmp_path)!r})\n"
        "executor.begin(root, Plan(executor='ray', device='cpu', threads=1), print)\n"
        f"handle = executor.submit('{WORKS}:stay', (root / 'pids', 60), root / 'log')\n"
        "while not handle.poll(): executor.wait([handle])\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and pids.read_text())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not alive(int(pids.read_text())), 10.0)


def test_an_address_at_which_nothing_answers_is_refused_in_time(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(_cluster, "CONNECT_SECONDS", 2)
    ray.shutdown()
    error = refused(
        capsys, *SMALL, "--executor", "ray", "--address", "127.0.0.1:9", "--out", tmp_path / "run"
    )
    assert "no Ray cluster answers at 127.0.0.1:9 (waited 2 s)" in error
    assert not (tmp_path / "run").exists()
    assert "is of Ray's client" in refused(
        capsys, *SMALL, "--executor", "ray", "--address", "ray://127.0.0.1:9"
    )


def start_study(root, cluster, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "foveate", "compare", *map(str, arguments)]
    if "--resume" not in arguments:
        command += ["--executor", "ray", "--address", cluster.address, "--out", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def trials(root: Path) -> int:
    return len(list(root.glob("trials/*/trial.json")))


@pytest.fixture(scope="module")
def locally(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("locally") / "run"
    command = [sys.executable, "-m", "foveate", "compare", *map(str, TWELVE), "--out", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twelve_trials_and_a_node_lost_give_the_numbers_of_one_machine(cluster, locally, tmp_path):
    root = tmp_path / "run"
    node = ray_cluster.add(cluster)
    study = start_study(root, cluster, *TWELVE[:-2])
    until(lambda: trials(root) >= 3, 120.0)
    cluster.remove_node(node, allow_graceful=False)
    said, _ = study.communicate(timeout=400)
    assert study.returncode == 0, said
    assert trials(root) == 12
    assert numbers(root) == numbers(locally)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_killed_and_resumed_gives_the_numbers_of_one_machine(cluster, locally, tmp_path):
    root = tmp_path / "run"
    study = start_study(root, cluster, *TWELVE[:-2])
    until(lambda: trials(root) >= 4, 120.0)
    study.send_signal(signal.SIGKILL)
    study.wait()
    before = {path: path.stat().st_mtime_ns for path in root.glob("trials/*/trial.json")}
    assert 4 <= len(before) < 12
    said, _ = start_study(root, cluster, "--resume", root).communicate(timeout=400)
    assert trials(root) == 12, said
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in root.glob("trials/*/trial.json")}.items()
    )
    assert numbers(root) == numbers(locally)


def test_without_ray_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "foveate.study.executors.ray")
    assert "pip install 'foveate[study,ray]'" in refused(capsys, *SMALL, "--executor", "ray")
