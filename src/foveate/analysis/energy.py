"""Energy counters: what the processor has used, where the platform counts it.

Linux shows the counters of Intel and AMD processors (RAPL) under ``/sys/class/powercap``, on many
systems to the superuser alone. A counter is the whole processor's: other programs are in it.
"""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+$")


class EnergyCounter:
    """The sum over the processor's packages, in joules since it was made.

    Args:
        root: where the counters lie.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self._packages = [folder for folder in _packages(root) if _read(folder) is not None]
        self._last = {folder: _read(folder) or 0 for folder in self._packages}
        self._microjoules = 0

    @property
    def available(self) -> bool:
        """Whether there is a counter that this process may read."""
        return bool(self._packages)

    def joules(self) -> float:
        """Used since the counter was made; a counter that has gone round is taken on."""
        for folder in self._packages:
            now, before = _read(folder) or 0, self._last[folder]
            self._microjoules += now - before if now >= before else now + _range(folder) - before
            self._last[folder] = now
        return self._microjoules / 1e6


def _packages(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob("*") if _PACKAGE.match(folder.name))


def _read(folder: Path) -> int | None:
    try:
        return int((folder / "energy_uj").read_text())
    except (OSError, ValueError):
        return None


def _range(folder: Path) -> int:
    """After how many microjoules a counter begins anew."""
    try:
        return int((folder / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return 0
