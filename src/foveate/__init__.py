"""Foveate: visual attention, exact to its publications and fast on any device."""

from __future__ import annotations

from foveate.published import load_published
from foveate.registry import Spec, create_attention, describe, list_attention, register

__version__ = "0.1.0"

__all__ = ["Spec", "create_attention", "describe", "list_attention", "load_published", "register"]
