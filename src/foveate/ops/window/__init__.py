"""Window attention: windows, shifted windows, stripes, windows spread over the map."""

from __future__ import annotations

from foveate.ops.window.api import window_attention

__all__ = ["window_attention"]
