"""Attention operators without parameters: one meaning each, several backends."""

from __future__ import annotations

from foveate.ops._backends import explain, use_backend

__all__ = ["explain", "use_backend"]
