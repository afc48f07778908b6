"""Slide attention: every query sees the slots of a depthwise-convolved window."""

from __future__ import annotations

from foveate.ops.slide.api import slide_attention

__all__ = ["slide_attention"]
