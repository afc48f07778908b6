"""Convolution of maps of few channels."""

from __future__ import annotations

from foveate.ops.narrow_conv.api import narrow_conv

__all__ = ["narrow_conv"]
