"""Attention inside the parts of a map: windows, shifted windows, stripes, spread groups."""

from __future__ import annotations

from foveate.ops.window.api import window_attention

__all__ = ["window_attention"]
