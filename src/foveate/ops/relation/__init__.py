"""Local relations: what every position's query and the keys around it hold, side by side."""

from __future__ import annotations

from foveate.ops.relation.api import local_relation

__all__ = ["local_relation"]
