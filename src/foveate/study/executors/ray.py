"""Work over a Ray cluster (extra ``ray``): each piece a task with its CPUs and GPUs, on some node.

A node that is lost has its work done again on another, from the last checkpoint in the run
directory, which all nodes share. Events come back through one actor beside the driver, about one
message a second and piece of work. The tasks of a driver that has died are ended by Ray.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foveate.study.executors import Failure, Handle
from foveate.study.executors._cluster import ClusterError, Node, connect, need, nodes
from foveate.study.executors._node import (
    Began,
    Events,
    Expected,
    Job,
    do_and_tell,
    versions,
)
from foveate.study.plan import Cluster, Plan, own_paths
from foveate.study.records import Machine

RETRIES = 10
"""How often work is done again whose node was lost."""

NODE_SECONDS, CHECK_SECONDS = 600, 180
"""How long work waits for a node that could do it; how long a node may take to answer at first."""

_TICK, _WATCH, _BUSY = 0.5, 10.0, 60.0


class RayExecutor:
    """Runs work on the nodes of a Ray cluster.

    A cluster is joined when it is first asked of: a study that is over needs none.

    Args:
        address: ``"auto"`` or ``HOST:PORT``.
        preload: the module that processes import before there is work.

    Attributes:
        nodes: that can do the work, by host.
        machines: what :meth:`begin` has found out about them.
        machine: the host on which work that is to be alone runs.
    """

    def __init__(self, address: str = "auto", preload: str = "foveate.study.trial") -> None:
        self._address, self._preload = address, preload
        self._ours = False
        self._cpus, self._gpus = 1.0, 0.0
        self._generation = 0
        self._expected: Expected | None = None
        self._tasks: dict[int, Task] = {}
        self._say: Callable[[str], None] = lambda text: None
        self._begun = self._heard = self._watched = time.monotonic()
        self._fitted = time.monotonic()
        self._said: set[str] = set()
        self._submitted = 0
        self._alone: Node | None = None
        self._events: Any = None
        self._do: Any = None
        self.nodes: list[Node] = []
        self.machines: tuple[Machine, ...] = ()

    @property
    def machine(self) -> str | None:
        return None if self._alone is None else self._alone.host

    @property
    def cluster(self) -> Cluster:
        """What a plan must know of the cluster.

        Raises:
            ClusterError: if none answers.
        """
        self._join()
        with_gpus = [node for node in self.nodes if node.gpus]
        return Cluster(
            gpus=int(sum(node.gpus for node in with_gpus)),
            cores_a_gpu=int(min((node.cpus // node.gpus for node in with_gpus), default=0)),
        )

    @property
    def slots(self) -> int:
        return sum(node.slots(self._cpus, self._gpus) for node in self.nodes)

    def begin(self, root: Path, plan: Plan, say: Callable[[str], None]) -> None:
        """Look at every node that can do the work: it must see the files and have the versions.

        Raises:
            ClusterError: naming the node and what is not as it should be there.
        """
        self._join()
        self._say = say
        self._cpus = float(plan.threads or 1)
        self._gpus = 0.0 if plan.device == "cpu" else 1.0
        all_nodes = nodes()
        self.nodes = [node for node in all_nodes if node.fits(self._cpus, self._gpus)]
        if not self.nodes:
            offers = ", ".join(sorted({need(n.cpus, n.gpus) for n in all_nodes}))
            raise ClusterError(
                f"no node of the cluster has the {need(self._cpus, self._gpus)} that a trial takes "
                f"(threads, device); its nodes have {offers}"
            )
        self._alone = self.nodes[0]
        self._expected = Expected(root, uuid.uuid4().hex, versions(), own_paths(plan))
        self._expected.put_token()
        self.machines = self._look(root / "cluster.log")
        say(
            f"cluster of {len(self.nodes)} node{'' if len(self.nodes) == 1 else 's'}, "
            f"{self.slots} trials at a time; costs are measured on {self.machine}"
        )

    def submit(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None] = lambda event: None,
        alone: bool = False,
    ) -> Task:
        """Start the work; see :class:`foveate.study.executors.Executor`."""
        if not alone or self._alone is None:
            return self._start(
                work, arguments, log, events, num_cpus=self._cpus, num_gpus=self._gpus
            )
        node = self._alone
        return self._start(
            work, arguments, log, events, num_cpus=node.cpus, num_gpus=node.gpus, on=node
        )

    def wait(self, handles: Sequence[Handle], seconds: float | None = None) -> None:
        """Sleep until a task is over, for half a second at most: events are asked for."""
        open_ = {task.ref: task for task in handles if isinstance(task, Task) and not task.over}
        if open_:
            refs = list(open_)
            limit = _TICK if seconds is None else max(0.0, min(seconds, _TICK))
            over, _ = ray.wait(refs, num_returns=1, timeout=limit)
            over = ray.wait(refs, num_returns=len(refs), timeout=0)[0] if over else []
            for ref in over:
                open_[ref].take_result()
        self._hear()
        self._watch([task for task in open_.values() if not task.over])

    def renew(self) -> None:
        """Work that is submitted next runs in a process that did none of the former."""
        self._generation += 1

    def close(self) -> None:
        """Leave the cluster."""
        if self._expected is not None:
            self._expected.remove_token()
        if self._ours and ray.is_initialized():
            ray.shutdown()

    def _join(self) -> None:
        if self._do is not None:
            return
        self._ours = connect(self._address)
        self.nodes = nodes()
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Events).options(num_cpus=0, max_restarts=-1, scheduling_strategy=beside)
        self._events = actor.remote()
        self._do = ray.remote(do_and_tell)

    def _start(
        self,
        work: str,
        arguments: tuple[Any, ...],
        log: Path,
        events: Callable[[Any], None],
        on: Node | None = None,
        answer: str | None = None,
        **resources: float,
    ) -> Task:
        if self._expected is None:
            raise RuntimeError("begin comes before submit")
        self._submitted += 1
        number = self._submitted
        job = Job(
            work, arguments, log.absolute(), self._expected, Path.cwd(), self._preload,
            self._generation, answer,
        )  # fmt: skip
        where = "DEFAULT" if on is None else NodeAffinitySchedulingStrategy(on.id, soft=False)
        task = self._do.options(max_retries=RETRIES, scheduling_strategy=where, **resources)
        ref = task.remote(number, job, self._events)
        self._tasks[number] = Task(ref, events, self._note_again)
        return self._tasks[number]

    def _look(self, log: Path) -> tuple[Machine, ...]:
        """Ask each node what it is."""
        work = "foveate.study.environment:machine"
        asked = [
            (node, self._start(work, (), log, lambda event: None, node, node.id, num_cpus=0))
            for node in self.nodes
        ]
        end = time.monotonic() + CHECK_SECONDS
        machines = []
        for node, task in asked:
            while not task.poll() and time.monotonic() < end:
                self.wait([task], end - time.monotonic())
            if not task.over:
                raise ClusterError(f"node {node.host} did not answer within {CHECK_SECONDS} s")
            if task.failure is not None:
                raise ClusterError(_once(f"node {node.host}: ", task.failure.reason))
            expected = self._expected
            if expected is not None and expected.seen_by(node.id) != expected.token:
                raise ClusterError(
                    f"node {node.host}: what it writes into {expected.root} is not seen here: put "
                    "it on storage that all nodes share under the same path (--out)"
                )
            machines.append(
                task.result._replace(host=node.host, cpus=int(node.cpus), gpus=int(node.gpus))
            )
        log.unlink(missing_ok=True)
        return tuple(machines)

    def _hear(self) -> None:
        """Pass on the events that have come."""
        if time.monotonic() - self._heard < _TICK:
            return
        self._heard = time.monotonic()
        try:
            heard = ray.get(self._events.take.remote(), timeout=10.0)
        except (RayActorError, GetTimeoutError):
            return  # it is started again; what is lost is progress that would have been shown
        for number, events in heard:
            if number in self._tasks:
                self._tasks[number].hear(events)
        self._tasks = {number: task for number, task in self._tasks.items() if not task.over}

    def _note_again(self, host: str) -> None:
        self._say(f"a node was lost: its work goes on from the last checkpoint on {host}")

    def _watch(self, waiting: Sequence[Task]) -> None:
        """Say why nothing begins, and end what no node can do any more."""
        now = time.monotonic()
        if now - self._watched < _WATCH:
            return
        self._watched = now
        self.nodes = [node for node in nodes() if node.fits(self._cpus, self._gpus)]
        if self.nodes and self._alone not in self.nodes:
            self._alone = self.nodes[0]
        wanted = need(self._cpus, self._gpus)
        if self.nodes:
            self._fitted = now
            self._said.discard("none")
        elif now - self._fitted > NODE_SECONDS:
            for task in waiting:
                task.kill(f"for {NODE_SECONDS // 60} minutes no node of the cluster had {wanted}")
        else:
            self._say_once(
                "none",
                f"no node of the cluster has {wanted} any more; waiting up to "
                f"{NODE_SECONDS // 60} minutes for one",
            )
        since = min((task.submitted for task in waiting), default=now)
        if waiting and all(task.began is None for task in waiting) and now - since > _BUSY:
            self._say_once("busy", f"the cluster is busy: waiting for {wanted}")

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(text)


class Task:
    """Work that was submitted to the cluster.

    Attributes:
        result: what the work returned.
        failure: why it did not return.
        over: whether it did either.
        began: when a node took it up, by this process's monotonic clock; None before.
        submitted: when it was submitted, likewise.
        ref: Ray's.

    Args:
        ref: Ray's.
        events: called with each event of the work.
        again: called with the host when the work begins again.
    """

    def __init__(
        self, ref: Any, events: Callable[[Any], None], again: Callable[[str], None]
    ) -> None:
        self.ref = ref
        self.result: Any = None
        self.failure: Failure | None = None
        self.over = False
        self.began: float | None = None
        self.submitted = time.monotonic()
        self._events, self._again = events, again
        self._heard: list[Any] = []

    def poll(self) -> bool:
        """Pass on the events that have come; returns whether the work is over."""
        heard, self._heard = self._heard, []
        for event in heard:
            self._events(event)
        return self.over

    def kill(self, reason: str) -> None:
        """End the work at once; its process ends with the task's."""
        if self.over:
            return
        self.over, self.failure = True, Failure("failed", reason)
        ray.cancel(self.ref, force=True)
        if self.began is not None:
            ray.wait([self.ref], timeout=5.0)

    def hear(self, events: Sequence[Any]) -> None:
        """Events have come."""
        for event in events:
            if not isinstance(event, Began):
                self._heard.append(event)
                continue
            if self.began is not None:
                self._again(event.host)
            self.began = time.monotonic()

    def take_result(self) -> None:
        """It is over."""
        if self.over:
            return
        self.over = True
        self.began = self.began or time.monotonic()  # it was over before it was heard of
        try:
            self.result, self.failure, events = ray.get(self.ref)
            self._heard += events
        except RayError as error:
            self.failure = Failure("failed", _in_a_line(error))


def _in_a_line(error: RayError) -> str:
    """Ray's reason without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines and "Traceback" in str(error) else " ".join(lines[:2])
    return f"{type(error).__name__}: {text[:300]}"


def _once(start: str, text: str) -> str:
    return text if text.startswith("node ") else start + text
