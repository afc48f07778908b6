"""Foveate: visual attention, exact to its publications and fast on any device.

Names load when they are first used, so that ``foveate --help`` need not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.analysis.flops import count_flops
    from foveate.analysis.profile import Profile, profile
    from foveate.analysis.sight import what_a_query_sees
    from foveate.published import load_published
    from foveate.registry import Spec, create_attention, describe, list_attention, register
    from foveate.surgery.change import insert, replace
    from foveate.surgery.fuse import fuse
    from foveate.surgery.places import places
    from foveate.surgery.recipe import added, apply, changes, finish, freeze, restore

__version__ = "0.1.0"

__all__ = [
    "Profile",
    "Spec",
    "added",
    "apply",
    "changes",
    "count_flops",
    "create_attention",
    "describe",
    "finish",
    "freeze",
    "fuse",
    "insert",
    "list_attention",
    "load_published",
    "places",
    "profile",
    "register",
    "replace",
    "restore",
    "what_a_query_sees",
]

_HOME = {
    "Profile": "analysis.profile",
    "Spec": "registry",
    "added": "surgery.recipe",
    "apply": "surgery.recipe",
    "changes": "surgery.recipe",
    "count_flops": "analysis.flops",
    "create_attention": "registry",
    "describe": "registry",
    "finish": "surgery.recipe",
    "freeze": "surgery.recipe",
    "fuse": "surgery.fuse",
    "insert": "surgery.change",
    "list_attention": "registry",
    "load_published": "published",
    "places": "surgery.places",
    "profile": "analysis.profile",
    "register": "registry",
    "replace": "surgery.change",
    "restore": "surgery.recipe",
    "what_a_query_sees": "analysis.sight",
}
_ROOMS = {
    "analysis",
    "attention",
    "checks",
    "contracts",
    "data",
    "layout",
    "models",
    "ops",
    "published",
    "registry",
    "study",
    "surgery",
    "tasks",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"foveate.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    value = getattr(import_module(f"foveate.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, "__version__"})
