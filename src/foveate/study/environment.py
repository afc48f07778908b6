"""Where a study ran: versions, processor, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foveate._version import __version__
from foveate.analysis.profile import device_name
from foveate.study.plan import Plan
from foveate.study.records import Environment

_PACKAGES = (
    "torch", "timm", "lightning", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn",
    "scipy",
)  # fmt: skip


def environment(plan: Plan, command: Sequence[str] | None) -> Environment:
    """What the numbers of a study depend on beside its plan; ``command`` is what was typed."""
    return Environment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        foveate=__version__,
        commit=_commit(),
        python=platform.python_version(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
        platform=platform.platform(),
        cpu=device_name("cpu"),
        cores=os.cpu_count(),
        device=plan.device,
        device_name=device_name(plan.device),
        workers=plan.workers,
        threads=plan.threads,
        seeds=list(plan.seeds),
        command=None if command is None else list(command),
    )


def changes(before: Environment, now: Environment) -> list[str]:
    """What is not as it was, in words: numbers may differ for it."""
    old = {"python": before.python, "cpu": before.cpu, **before.versions}
    new = {"python": now.python, "cpu": now.cpu, **now.versions}
    return [
        f"{key} was {old[key]} and is {new[key]}"
        for key in old
        if new.get(key, old[key]) != old[key]
    ]


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
