"""A map times a factor that is made of several, each the same along some of the map's axes."""

from __future__ import annotations

from foveate.ops.scale.api import scale

__all__ = ["scale"]
