"""Slide attention: every query attends to a window of depthwise-convolved neighbours."""

from __future__ import annotations

from foveate.ops.slide.api import slide_attention

__all__ = ["slide_attention"]
