"""Mean and maximum of a map along one axis, for several axes at once."""

from __future__ import annotations

from foveate.ops.axis_pool.api import axis_pool

__all__ = ["axis_pool"]
