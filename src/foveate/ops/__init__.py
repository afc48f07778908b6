"""Operators without parameters: one meaning each, several backends."""

from __future__ import annotations

from foveate.ops._backends import use_backend
from foveate.ops._operator import explain
from foveate.ops.aggregate import local_aggregate
from foveate.ops.local import local_attention
from foveate.ops.relation import local_relation
from foveate.ops.slide import slide_attention
from foveate.ops.window import window_attention

__all__ = [
    "explain",
    "local_aggregate",
    "local_attention",
    "local_relation",
    "slide_attention",
    "use_backend",
    "window_attention",
]
