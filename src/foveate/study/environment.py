"""Where a study ran: versions, processor, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate._version import __version__
from foveate.analysis.profile import device_name
from foveate.study.plan import Plan
from foveate.study.records import Environment, Machine

_PACKAGES = (
    "torch", "timm", "lightning", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn",
    "scipy",
)  # fmt: skip


def environment(
    plan: Plan, command: Sequence[str] | None, nodes: Sequence[Machine] = ()
) -> Environment:
    """What the numbers of a study depend on beside its plan.

    Args:
        plan: of the study.
        command: what was typed.
        nodes: of the cluster that trials run on.
    """
    accelerators = sorted({node.accelerator for node in nodes if node.accelerator})
    return Environment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        foveate=__version__,
        commit=_commit(),
        python=platform.python_version(),
        versions=_versions(),
        platform=platform.platform(),
        cpu=", ".join(sorted({node.processor for node in nodes})) or device_name("cpu"),
        cores=sum(node.cpus for node in nodes) or os.cpu_count(),
        device=plan.device,
        device_name=", ".join(accelerators) or device_name(plan.device),
        workers=plan.workers,
        threads=plan.threads,
        seeds=list(plan.seeds),
        command=None if command is None else list(command),
        nodes=tuple(nodes),
    )


def machine(tell: Callable[[Any], None]) -> Machine:
    """What a node of a cluster is, without what the cluster knows of it."""
    import torch

    return Machine(
        host="",
        cpus=0,
        gpus=0,
        processor=device_name("cpu"),
        accelerator=device_name("cuda") if torch.cuda.is_available() else None,
        python=platform.python_version(),
        versions=_versions(),
    )


def unlike(nodes: Sequence[Machine]) -> list[str]:
    """What is not alike on all nodes, this machine's packages among it, in words."""
    said = []
    for what in ("processor", "accelerator"):
        names = {getattr(node, what) or "none" for node in nodes}
        if len(names) > 1:
            said.append(f"nodes differ in their {what} ({', '.join(sorted(names))})")
    here = {"python": platform.python_version(), **_versions()}
    for node in nodes:
        there = {"python": node.python, **node.versions}
        said += [
            f"{name} is {here[name]} here and {there.get(name, 'missing')} on {node.host}"
            for name in here
            if there.get(name) != here[name]
        ]
    return list(dict.fromkeys(said))


def changes(before: Environment, now: Environment) -> list[str]:
    """What is not as it was, in words: numbers may differ for it."""
    old = {"python": before.python, "cpu": before.cpu, **before.versions}
    new = {"python": now.python, "cpu": now.cpu, **now.versions}
    return [
        f"{key} was {old[key]} and is {new[key]}"
        for key in old
        if new.get(key, old[key]) != old[key]
    ]


def _versions() -> dict[str, str]:
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the library's own checkout, if it runs from one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
