"""Operators without parameters: one meaning each, several backends."""

from __future__ import annotations

from foveate.ops._backends import use_backend
from foveate.ops._operator import explain
from foveate.ops.aggregate import local_aggregate
from foveate.ops.axis_pool import axis_pool
from foveate.ops.local import local_attention
from foveate.ops.narrow_conv import narrow_conv
from foveate.ops.relation import local_relation
from foveate.ops.scale import scale
from foveate.ops.slide import slide_attention
from foveate.ops.window import window_attention

__all__ = [
    "axis_pool",
    "explain",
    "local_aggregate",
    "local_attention",
    "local_relation",
    "narrow_conv",
    "scale",
    "slide_attention",
    "use_backend",
    "window_attention",
]
