"""Local attention: every query sees a window around itself."""

from __future__ import annotations

from foveate.ops.local.api import local_attention

__all__ = ["local_attention"]
