"""The comparison of mechanisms: plan, trials, records, statistics, report."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = ("lightning", "rich", "scipy", "sklearn", "torchvision", "yaml")

_missing = [name for name in _NEEDED if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"a study needs more than the library ({', '.join(_missing)}): pip install 'foveate[study]'"
    )
