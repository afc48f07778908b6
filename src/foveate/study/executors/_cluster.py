"""Connecting to a Ray cluster, within a stated time, and what its nodes offer."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

CONNECT_SECONDS = 30

_OPTIONS = "log_to_driver=False, logging_level='ERROR'"


class ClusterError(ValueError):
    """The cluster cannot be used; the message says why, and what would be right."""


class Node(NamedTuple):
    """A machine of the cluster.

    Attributes:
        id: Ray's.
        host: its name.
        cpus: that it offers to tasks.
        gpus: likewise.
    """

    id: str
    host: str
    cpus: float
    gpus: float

    def fits(self, cpus: float, gpus: float) -> bool:
        """Whether work that needs so many can run on it."""
        return self.cpus >= cpus and self.gpus >= gpus

    def slots(self, cpus: float, gpus: float) -> int:
        """Pieces of such work at a time."""
        if not self.fits(cpus, gpus):
            return 0
        return int(min(self.cpus // cpus, self.gpus // gpus if gpus else self.cpus // cpus))


def connect(address: str) -> bool:
    """Join a cluster that runs; returns whether this process had not joined one before.

    Args:
        address: ``"auto"`` for the cluster that this machine belongs to, or ``HOST:PORT`` of its
            head.

    Raises:
        ClusterError: if none answers within :data:`CONNECT_SECONDS` seconds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if ray.is_initialized():
        return False
    if "://" in address:
        raise ClusterError(
            f"address {address!r} is of Ray's client, which a study does not go through: run it on "
            "a machine of the cluster, with address auto or HOST:PORT"
        )
    _try_in_another_process(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    _silence()
    return True


def nodes() -> list[Node]:
    """The nodes that are alive, by host and identity."""
    import ray

    found = [
        Node(
            each["NodeID"],
            each["NodeManagerHostname"],
            each["Resources"].get("CPU", 0.0),
            each["Resources"].get("GPU", 0.0),
        )
        for each in ray.nodes()
        if each["Alive"]
    ]
    return sorted(found, key=lambda node: (node.host, node.id))


def need(cpus: float, gpus: float) -> str:
    """``2 CPUs and 1 GPU``."""
    said = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{said} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else said


def _try_in_another_process(address: str) -> None:
    """Where nothing answers, ray.init waits for minutes and cannot be interrupted."""
    code = f"import sys, ray; ray.init(address=sys.argv[1], {_OPTIONS})"
    process = subprocess.Popen(
        [sys.executable, "-c", code, address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        _, said = process.communicate(timeout=CONNECT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ClusterError(
            f"no Ray cluster answers at {address} (waited {CONNECT_SECONDS} s); start one with "
            "ray start --head, and give its HOST:PORT as address, or auto on one of its machines"
        ) from None
    if process.returncode == 0:
        return
    if "Could not find any running Ray instance" in said:
        raise ClusterError(
            "no Ray cluster runs on this machine; start one with ray start --head, join one with "
            "ray start --address HOST:PORT, or give the address of one: --address HOST:PORT"
        )
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1].partition(": ")[2] or lines[-1] if lines else "it gave no reason"
    raise ClusterError(f"the Ray cluster at {address} cannot be joined: {last}")


def _silence() -> None:
    """Keep the raylets' own words, pages for a lost node, off the terminal: the study says it."""
    with suppress(ImportError):  # there is no public way
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None  # pyrefly: ignore
